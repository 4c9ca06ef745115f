#include "reports/sweep_lines.h"

#include <doctest/doctest.h>

#include "reports/json.h"
#include "tests/reports/answers.h"

namespace shardwright {
namespace {

SweepRow row(bool fits) {
  SweepRow r{{"llama-3.1-8b", "my,machine.yaml", "generic", 64, 1024, 32, DataType::bf16}, {}, ""};
  if (fits) {
    r.best = round_layout(4, 0.5, 20);
  } else {
    r.why_not = "memory: \"much\"\ntoo little";
  }
  return r;
}

TEST_CASE("a line of CSV has as many cells as its head, quoted where they need it") {
  const SweepFormat csv = SweepFormat::csv;
  CHECK(sweep_head(csv) ==
        "model,machine,gpus,sequence_length,global_batch,precision,engine,fits,step_seconds,step_seconds_low,"
        "step_seconds_high,tokens_per_second,tokens_per_second_per_gpu,mfu,bubble_seconds,"
        "exposed_communication_seconds,memory_reserved_bytes,gpu_hours_per_trillion_tokens,cost_per_trillion_tokens,"
        "layout_text,why_not\n");
  // 48 GiB; 32,768 tokens in 10 s.
  CHECK(sweep_line(csv, row(true), false) ==
        "llama-3.1-8b,\"my,machine.yaml\",64,1024,32,bf16,generic,true,10.0,9.0,11.0,3276.8,51.2,0.4,0.5,1.0,"
        "51539607552,123456.0,,\"" +
            to_string(row(true).best->layout) + "\",\n");
  CHECK(sweep_line(csv, row(false), true) ==
        "llama-3.1-8b,\"my,machine.yaml\",64,1024,32,bf16,generic,false,,,,,,,,,,,,,\"memory: \"\"much\"\" too "
        "little\"\n");
  CHECK(sweep_foot(csv).empty());
}

TEST_CASE("lines of JSON make one file") {
  const SweepFormat json = SweepFormat::json;
  CHECK(sweep_head(json) ==
        "{\"schema\":\"shardwright.sweep/1\",\"shardwright_version\":\"" + std::string(version()) + "\",\"rows\":[\n");
  const std::string start =
      "{\"model\":\"llama-3.1-8b\",\"machine\":\"my,machine.yaml\",\"gpus\":64,\"sequence_length\":1024,"
      "\"global_batch\":32,\"precision\":\"bf16\",\"engine\":\"generic\",";
  CHECK(sweep_line_start(json, row(true).point) == start);
  CHECK(sweep_line(json, row(false), false) ==
        start + "\"fits\":false,\"why_not\":\"memory: \\\"much\\\"\\ntoo little\"},\n");
  CHECK(sweep_line(json, row(false), true).ends_with("}\n"));
  CHECK(sweep_foot(json) == "]}\n");
}

TEST_CASE("a line says whether something fits") {
  for (const SweepFormat format : {SweepFormat::csv, SweepFormat::json})
    for (const bool fits : {true, false})
      CHECK(sweep_line_fits(format, row(fits).point, sweep_line(format, row(fits), false)) == fits);
}

}  // namespace
}  // namespace shardwright
