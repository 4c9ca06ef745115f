#include <cstdint>
#include <cstdlib>
#include <string>

#include "planner/validate/measured_rows.h"

using namespace shardwright;

/// Any bytes as a file of measured rows, and as a pipeline layout: an answer or an InputError.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto parsed = parse_pipeline_layout(text);
  if (const auto* chunks = std::get_if<std::vector<PipelineChunk>>(&parsed)) {
    if (chunks->empty() || !chunks->front().embedding || !chunks->back().loss) std::abort();
  } else if (std::get<PipelineLayoutFault>(parsed).reason.empty()) {
    std::abort();
  }
  try {
    const MeasuredFile file = read_measured_rows(YamlCursor::parse(text, "fuzz.yaml"));
    for (const MeasuredRow& row : file.rows) {
      if (row.id.empty() && row.source.empty() && row.trust.empty()) std::abort();
      row.measured.find("mfu");
    }
  } catch (const InputError&) {}
  return 0;
}
