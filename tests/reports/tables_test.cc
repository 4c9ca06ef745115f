#include <doctest/doctest.h>

#include "reports/machines_table.h"
#include "reports/models_table.h"
#include "reports/score_table.h"
#include "reports/validation_table.h"
#include "tests/reports/answers.h"

namespace shardwright {
namespace {

// KV of a token: 2 x layers x KV heads x 128 x 2 bytes: 32 layers x 8 heads: 128 KiB; 64 x 8: 256 KiB.
TEST_CASE("models are listed with size, KV cache and shape") {
  CHECK(models_table({find_model("llama-3.1-8b"), find_model("qwen3-32b")}) ==
        R"(model         parameters  KV per token  layers  hidden  heads  KV heads
llama-3.1-8b      8.03 B       128 KiB      32    4096     32         8
qwen3-32b         32.8 B       256 KiB      64    5120     64         8
KV per token: keys and values of all layers, two bytes an element.
)");
}

TEST_CASE("a model without a graph is listed with what it lacks and no size") {
  Model model = find_model("llama-3.1-8b");
  model.name = "strange";
  model.kv_lora_rank = 512;
  model.position = Position::learned;
  const std::string text = models_table({model});
  CHECK(text.find("strange           ?             ?      32    4096     32         8\n") != std::string::npos);
  CHECK(text.find("strange: no graph in this version (" + unsupported(model) + ")\n") != std::string::npos);
}

TEST_CASE("one model is shown with every key that matters") {
  CHECK(model_text(find_model("llama-3.1-8b")) == R"(llama-3.1-8b
  parameters                     8,030,261,248 (8.03 B)
  used by a token's products     7,504,924,672
  KV per token, 2-byte elements  128 KiB
  published parameters           8,030,261,248
  layers                         32
  hidden size                    4096
  attention heads                32 of 128, 8 for keys and values
  feed-forward                   14336, gated
  vocabulary                     128,256, two tables
  positions                      rotary, up to 131,072
  norm                           rmsnorm
)");
}

TEST_CASE("machines are listed with memory, rates and links") {
  Machine no_fp8 = round_machine();
  no_fp8.name = "other";
  no_fp8.peak[DataType::fp8] = {0};
  no_fp8.links.pop_back();
  CHECK(machines_table({round_machine(), no_fp8}) ==
        R"(machine     GiB  HBM TB/s  bf16   fp8  GPUs/node  NICs  GB/s in node  beyond
round-gpu  82.0      4.00  1000  2000          8     8           400      50
other      82.0      4.00  1000     -          8     8           400       -
bf16 and fp8 in TFLOP/s; links in GB/s of one GPU, one direction, inside the
first level and into the next.
Rates are datasheet values, dense, no kernel was measured; the source of each
number stands in its YAML file (hardware/catalog/NAME.yaml).
)");
}

TEST_CASE("one machine is shown with every rate and link") {
  Machine machine = round_machine();
  machine.price_per_gpu_hour = 2.5;
  CHECK(machine_text(machine) == R"(round-gpu
  memory of a GPU                82.0 GiB, 80.0 GiB usable
  memory bandwidth               4.00 TB/s
  peak bf16                      1.00 PFLOP/s
  peak fp8                       2.00 PFLOP/s
  L2                             64.0 MiB
  multiprocessors                100
  GPUs in a node                 8
  NICs in a node                 8
  link level 'node'              8 GPUs, 400 GB/s a GPU, 2.00 us
  link level 'spine'             without limit, 50.0 GB/s a GPU, 10.0 us
  price of a GPU-hour            2.50
  one sigma of a kernel's time   10 %
Rates are datasheet values, dense, no kernel was measured; the source of each
number stands in its YAML file (hardware/catalog/NAME.yaml).
)");
}

Validation round_validation() {
  Validation validation;
  validation.rows = {{"a", "grid", "f", "training", "A", false, "iteration_seconds", 10.0, 11, 10, 12, 0.1, true, {}},
                     {"b", "paper", "", "training", "B", true, "iteration_seconds", 10.0, 30, 20, 40, 2.0, true, {}}};
  validation.skipped = {
      {"c", "mixture of experts: 8 experts"}, {"d", "no machine"}, {"e", "mixture of experts: 64 experts"}};
  validation.summary = {{"training", "iteration_seconds", "", 1, 0.1, 0.1, 0.1, 0.1},
                        {"training", "iteration_seconds", "grid", 1, 0.1, 0.1, 0.1, -0.1}};
  validation.summary[0].held = 1;
  validation.intervals = {{"training", 4, 3}, {"kernel", 2, 1}};
  validation.ranking = validation.complete_ranking = RankingSummary{2, 0.75, 0.031};
  validation.out_of_memory = {3, 1, 9, 1};
  return validation;
}

TEST_CASE("a validation shows errors by metric and source, ranking, out of memory and why rows were skipped") {
  CHECK(validation_table(round_validation(), false) ==
        R"(2 rows predicted (1 of them suspect or of trust C, not scored), 3 skipped; 2
measured numbers.

training: iteration_seconds, relative error
source  n    mean  median    90th  signed median  in interval
all     1  10.0 %  10.0 %  10.0 %        +10.0 %        100 %
  grid  1  10.0 %  10.0 %  10.0 %        -10.0 %          0 %

Intervals of 80 % hold what was measured for 3 of 4 (75.0 %) training steps.
Intervals of 80 % hold what was measured for 1 of 2 (50.0 %) times of kernels.
Ranking, mean over the 2 families that say what tells their rows apart: Kendall
tau 0.75; the predicted best is 3.1 % slower than the measured best.
Out of memory: predicted for 3 of 4 (75.0 %) that ran out, and for 1 of 10 (10.0
%) that did not.

Most off
  a: iteration_seconds off by 10.0 %: measured 10, predicted 11

Skipped
      2  mixture of experts
      1  no machine
)");
}

TEST_CASE("families that do not say what tells their rows apart are shown apart") {
  Validation validation = round_validation();
  validation.complete_ranking = std::nullopt;
  validation.incomplete_ranking = RankingSummary{3, 0.5, 0.1};
  CHECK(validation_table(validation, false)
            .find("Ranking, mean over the 3 families that do not: Kendall tau 0.50; the "
                  "predicted\nbest is 10.0 % slower than the measured best.\nOut of") != std::string::npos);
}

TEST_CASE("collectives are shown by span, without ranking and memory, and say that errors are the time's") {
  Validation validation;
  validation.rows = {
      {"a", "s", "f", "collective", "A", false, "bus_bandwidth_bytes_per_second", 10.0, 11, 10, 12, 0.1, false, {}}};
  validation.summary = {{"collective", "bus_bandwidth_bytes_per_second", "", 1, 0.1, 0.1, 0.1, 0.1},
                        {"collective", "bus_bandwidth_bytes_per_second", "", 1, 0.1, 0.1, 0.1, 0.1, "within_node"},
                        {"collective", "bus_bandwidth_bytes_per_second", "s", 1, 0.1, 0.1, 0.1, 0.1}};
  CHECK(validation_table(validation, false) ==
        R"(1 rows predicted (0 of them suspect or of trust C, not scored), 0 skipped; 1
measured numbers.

collective: bus_bandwidth_bytes_per_second, relative error of the time
source         n    mean  median    90th  signed median  in interval
all            1  10.0 %  10.0 %  10.0 %        +10.0 %          0 %
  within_node  1  10.0 %  10.0 %  10.0 %        +10.0 %          0 %
  s            1  10.0 %  10.0 %  10.0 %        +10.0 %          0 %
)");
}

TEST_CASE("asked for, a validation names each skipped row") {
  const std::string text = validation_table(round_validation(), true);
  CHECK(text.substr(text.find("Skipped")) == R"(Skipped
      2  mixture of experts
           c: 8 experts
           e: 64 experts
      1  no machine
           d
)");
}

TEST_CASE("a validation of nothing says so") {
  CHECK(validation_table({}, false) ==
        R"(0 rows predicted (0 of them suspect or of trust C, not scored), 0 skipped; 0
measured numbers.

Ranking: no family with layouts to tell apart.
Out of memory: predicted for none that ran out, and for none that did not.
)");
}

TEST_CASE("scores are a table for each family") {
  const std::vector<LeaveOutError> errors = {
      {KernelFamily::gemm, "", "n, k", 32'190, 0.0227, 0.0854, 0.634},
      {KernelFamily::gemm, "bf16", "n, k", 1, 0.1, 0.2, 1},
      {KernelFamily::collective, "NCCL", "a size", 462, 0.019, 0.093, 0.66},
      {KernelFamily::collective, "NCCL", "a type", 462, 0.02, 0.08, 0.68},
  };
  CHECK(score_table("h100", errors) == R"(h100: what was measured, asked as if it had not been. |predicted / measured -
1|, and how often it is within one sigma of the answer (68 % where sigma is
right).

gemm, all of n, k left out
           n  median    90th  in sigma
all   32,190   2.3 %   8.5 %      63 %
bf16       1  10.0 %  20.0 %     100 %

collective
                        n  median   90th  in sigma
NCCL, without a size  462   1.9 %  9.3 %      66 %
NCCL, without a type  462   2.0 %  8.0 %      68 %
)");
  CHECK(score_table("h100", {}) == "Too little of h100 was measured to leave anything out.\n");
}

}  // namespace
}  // namespace shardwright
