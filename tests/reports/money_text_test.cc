#include "reports/money_text.h"

#include <doctest/doctest.h>

#include "tests/reports/answers.h"

namespace shardwright {
namespace {

RunQuestion two_trillion() {
  RunQuestion question;
  question.tokens = 2e12;
  return question;
}

TEST_CASE("a run says its days, GPU-hours and price, and that failures are not modelled") {
  RunQuestion question = two_trillion();
  // 1,000,000 steps of 2 M tokens and 8.64 s: 100 days. On 10 GPUs 24,000 GPU-hours.
  CHECK(run_text(run_cost(question, 10, 2e6, {8.64}), 10, {}) ==
        "A run over 2.00 T tokens\n"
        "  steps                          1,000,000\n"
        "  days                           100.0\n"
        "  tokens per second              231,481\n"
        "  GPU-hours                      24,000\n"
        "Failures are not modelled: --mtbf-hours says how often a GPU has one.\n");
  question.price_per_gpu_hour = 2.5;
  question.experiments = 4;
  const std::string text = run_text(run_cost(question, 10, 2e6, {8.64}), 10, {});
  CHECK(text.find("  price                          60,000 at 2.5 a GPU-hour\n"
                  "  GPU-hours with experiments     96,000 (x 4, as you say)\n"
                  "  price with experiments         240,000\n") != std::string::npos);
}

TEST_CASE("failures come with their interval and what is left of the time") {
  RunQuestion question = two_trillion();
  // A failure every 100 hours on 10 GPUs: 360,000 s. sqrt(2 x 200 x 360,000) = 12,000; d / 2M = 1/3600:
  // 12,000 x (1 + 1 / 180 + 1 / 32,400) - 200 = 11,867 s = 3.3 h.
  question.mtbf_hours = 1000;
  question.checkpoint = {200};
  const RunCost cost = run_cost(question, 10, 2e6, {8.64});
  std::string text = run_text(cost, 10, {});
  CHECK(text.find("  days without failures          100.0\n  days                           103.4\n") !=
        std::string::npos);
  CHECK(text.find("Failures: one every 100.0 h on 10 GPUs, 25 in all. With a checkpoint of 200 s\n"
                  "after every 3.3 h of training (Daly 2006) 96.7 % of the time is progress;\n"
                  "restarts take no time here: --restart-seconds says how long.\n") != std::string::npos);
  question.restart = {1200};
  text = run_text(run_cost(question, 10, 2e6, {8.64}), 10, {});
  CHECK(text.find("progress; a\nrestart takes 20 min.\n") != std::string::npos);
}

TEST_CASE("a run that fails before it has saved anything takes for ever") {
  RunQuestion question = two_trillion();
  question.mtbf_hours = 0.01;  // of a GPU: 3.6 s of the job, less than a checkpoint takes
  question.checkpoint = {7200};
  const std::string text = run_text(run_cost(question, 10, 2e6, {8.64}), 10, {});
  CHECK(text.find("  days                           without end\n") != std::string::npos);
  CHECK(text.find("  GPU-hours                      without end\n") != std::string::npos);
}

TEST_CASE("numbers of GPUs that were tried, and the fewest that reach the goal") {
  RunQuestion question = two_trillion();
  question.price_per_gpu_hour = 1;
  std::vector<TriedGpus> tried(3);
  tried[0].gpus = 8;
  tried[1] = {16, {10}, run_cost(question, 16, 2e6, {8.64}), false};
  tried[2] = {1024, {0.432}, run_cost(question, 1024, 2e6, {0.432}), true};
  CHECK(tried_text(tried, {}) ==
        "GPUs tried, each with its fastest layout\n"
        "   GPUs    step   days  GPU-hours    price    reaches it\n"
        "      8       -      -          -        -  does not fit\n"
        "     16  10.0 s  100.0     38,400   38,400            no\n"
        "  1,024  432 ms    5.0    122,880  122,880           yes\n"
        "1,024 are the fewest of these that reach it.\n");
  tried.pop_back();
  CHECK(tried_text(tried, {}).find("fewest") == std::string::npos);
}

TEST_CASE("the longest sequence names its unit") {
  PlanResult result = round_result();
  result.workload.sequence_length = 40960;
  result.sequence_unit = 4096;
  CHECK(longest_sequence_text(result, {}) ==
        "40,960 tokens are the longest sequence, in multiples of 4,096, with which a\nlayout fits.\n");
}

}  // namespace
}  // namespace shardwright
