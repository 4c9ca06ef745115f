#include "planner/search/money.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "models/model.h"
#include "planner/workload.h"

namespace shardwright {
namespace {

TEST_CASE("DeepSeek-V3's pre-training costs what its report says") {
  // DeepSeek-V3 report, table 1 and 3.1: 2.664 M H800 GPU-hours on 2,048 GPUs for 14.8 T tokens, 2 dollars an hour:
  // 5.328 M dollars. 180 K GPU-hours, 3.7 days, for each trillion: 180,000 / 2,048 / 24 = 3.66.
  // 15,360 sequences of 4,096 tokens are 62,914,560 tokens a step: 235,240 steps of 2.664e6 x 3600 / 2048 / 235,240 s.
  RunQuestion question;
  question.tokens = 14.8e12;
  question.price_per_gpu_hour = 2;
  const double step = 2.664e6 * 3600 / 2048 / 235240;
  const RunCost cost = run_cost(question, 2048, 62914560, {step});
  CHECK(cost.steps == 235240);
  CHECK(cost.gpu_hours == doctest::Approx(2.664e6));
  CHECK(*cost.price == doctest::Approx(5.328e6));
  CHECK(cost.time.value / 86400 == doctest::Approx(54.2).epsilon(0.001));  // 2.664e6 / 2048 / 24
  CHECK(cost.gpu_hours / 14.8 == doctest::Approx(180e3).epsilon(0.001));
  CHECK(cost.time == cost.undisturbed);
  CHECK_FALSE(cost.failures.has_value());
  CHECK(cost.all_gpu_hours == cost.gpu_hours);
  CHECK(cost.tokens_per_second == doctest::Approx(14.8e12 / (54.199 * 86400)).epsilon(0.001));
  question.experiments = 3;
  CHECK(run_cost(question, 2048, 62914560, {step}).all_gpu_hours == doctest::Approx(7.992e6));
  CHECK(*run_cost(question, 2048, 62914560, {step}).all_price == doctest::Approx(15.984e6));
}

TEST_CASE("a run without a price has none, and its last step is a whole one") {
  RunQuestion question;
  question.tokens = 1001;
  const RunCost cost = run_cost(question, 8, 100, {3600});
  CHECK(cost.steps == 11);
  CHECK(cost.gpu_hours == 88);
  CHECK_FALSE(cost.price.has_value());
  CHECK_FALSE(cost.all_price.has_value());
}

TEST_CASE("Llama 3 405B's interruptions follow from the hours between those of a GPU") {
  // Its report, 3.3.4: 419 unexpected interruptions in 54 days on 16,384 GPUs: 54 x 24 x 16,384 / 419 = 50,676 hours.
  RunQuestion question;
  question.mtbf_hours = 54.0 * 24 * 16384 / 419;
  CHECK(*question.mtbf_hours == doctest::Approx(50676).epsilon(1e-4));
  question.tokens = 1;
  question.checkpoint = {1};
  // 54 days of one long step, hardly disturbed by checkpoints of one second.
  const RunCost cost = run_cost(question, 16384, 1, {54 * 86400.0});
  REQUIRE(cost.failures.has_value());
  CHECK(cost.failures->mtbf.value == doctest::Approx(54 * 86400.0 / 419));  // 3.09 hours
  CHECK(cost.failures->failures == doctest::Approx(419).epsilon(0.02));
  CHECK(cost.failures->failures == doctest::Approx(cost.time / cost.failures->mtbf));
  CHECK(cost.time.value == doctest::Approx(cost.undisturbed.value / cost.failures->progress));
}

TEST_CASE("the interval between checkpoints is Daly's, whose first term is Young's") {
  // d = 2, M = 100: sqrt(400) = 20 (Young), d / 2M = 0.01: 20 x (1 + 0.1 / 3 + 0.01 / 9) - 2 = 18.68889.
  CHECK(best_checkpoint_interval({2}, {100}).value == doctest::Approx(18.688889));
  // d = 50, M = 100: sqrt(10000) = 100, d / 2M = 0.25: 100 x (1 + 0.5 / 3 + 0.25 / 9) - 50 = 69.44444.
  CHECK(best_checkpoint_interval({50}, {100}).value == doctest::Approx(69.444444));
  CHECK(best_checkpoint_interval({200}, {100}).value == 100);
  CHECK(best_checkpoint_interval({999}, {100}).value == 100);
  // Of short checkpoints Young's is as good: sqrt(2 x 1 x 1e6) = 1414.2.
  CHECK(best_checkpoint_interval({1}, {1e6}).value == doctest::Approx(1414.2).epsilon(0.001));
}

TEST_CASE("the share of progress is Daly's, and the interval makes the most of it") {
  // t = 10, d = 2, R = 1, M = 100: 10 / (100 e^0.01 (e^0.12 - 1)) = 10 / (101.00502 x 0.1274969) = 0.7765.
  CHECK(share_of_progress({10}, {2}, {1}, {100}) == doctest::Approx(0.77652).epsilon(1e-4));
  // Hardly any failure: only the checkpoint is lost, 10 of 12.
  CHECK(share_of_progress({10}, {2}, {0}, {1e12}) == doctest::Approx(10.0 / 12));
  for (double d : {0.5, 5.0, 30.0}) {
    const Seconds best = best_checkpoint_interval({d}, {3600});
    const double share = share_of_progress(best, {d}, {60}, {3600});
    for (double other : {0.5, 0.8, 0.95, 1.05, 1.25, 2.0})
      CHECK(share >= share_of_progress(best * other, {d}, {60}, {3600}));
  }
}

/// A job by the same law, failure by failure: seconds until `work` is done.
double simulated(double work, double interval, double checkpoint, double restart, double mtbf, std::mt19937& random) {
  std::exponential_distribution<double> next(1 / mtbf);
  double now = 0, done = 0;
  while (done < work) {
    const double piece = std::min(interval, work - done) + checkpoint;
    double failure = next(random);
    if (failure >= piece) {
      now += piece;
      done += piece - checkpoint;
      continue;
    }
    now += failure;
    for (failure = next(random); failure < restart; failure = next(random)) now += failure;  // in the restart itself
    now += restart;
  }
  return now;
}

TEST_CASE("the share of progress is that of a job played failure by failure") {
  std::mt19937 random(3);
  for (const auto& [checkpoint, restart, mtbf] : {std::tuple{60.0, 300.0, 10000.0}, {20.0, 100.0, 2000.0}}) {
    const Seconds interval = best_checkpoint_interval({checkpoint}, {mtbf});
    const double work = 3000 * interval.value;
    double time = 0;
    for (int i = 0; i < 20; ++i) time += simulated(work, interval.value, checkpoint, restart, mtbf, random) / 20;
    CHECK(work / time == doctest::Approx(share_of_progress(interval, {checkpoint}, {restart}, {mtbf})).epsilon(0.005));
  }
}

TEST_CASE("a checkpoint holds the main copy of all parameters and two moments") {
  const Model model = find_model("llama-3.1-8b");
  Workload workload;
  workload.formats = formats_for(DataType::bf16);
  CHECK(checkpoint_bytes(model, workload).value == 8030261248 * 12);  // 4 bytes each
  workload.formats.optimizer_state = DataType::bf16;
  CHECK(checkpoint_bytes(model, workload).value == 8030261248 * 8);
}

}  // namespace
}  // namespace shardwright
