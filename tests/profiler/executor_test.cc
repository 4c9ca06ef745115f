// Does a plan that is run compute what one rank computes? Ranks are threads of this process.
#include <doctest/doctest.h>

#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/backends.h"
#include "kernels/threads/threads_communicator.h"
#include "models/transformer.h"
#include "profiler/execute/equality.h"
#include "tests/support/far_operators.h"
#include "tests/support/tiny_runs.h"

namespace shardwright {
namespace {

constexpr double kTolerance = 1e-4;  // fp32 beside double

/// Collectives, and waits for other stages, by name.
class Places final : public Recorder {
 public:
  void start(const Doing& what) override {
    if (what.kind == Doing::Kind::collective) all[what.name] = what.step;
    if (what.kind == Doing::Kind::receive) received.insert(what.name);
  }
  void stop() override {}
  std::map<std::string, ReshardStep> all;
  std::set<std::string> received;
};

struct Trained {
  Difference worst;
  Places places;
};

/// The worst of all ranks over so many steps: the second sees what the first one's update left.
Trained train(const Programme& programme, const RunOptions& options, const std::vector<StepResult>& one_rank,
              const Fault& fault = {}) {
  Trained result;
  std::mutex mutex;
  run_on_threads(static_cast<int>(programme.ranks()), [&](Communicator& world) {
    const auto operators = make_operators("cpu");
    Memory memory(*operators);
    Places places;
    Executor executor(programme, world, *operators, memory, places, options, fault);
    for (std::size_t step = 0; step < one_rank.size(); ++step) {
      executor.train(static_cast<std::int64_t>(step));
      const Difference found = difference(executor, executor.loss(), one_rank[step], *operators);
      const std::lock_guard lock(mutex);
      if (found.relative > result.worst.relative) result.worst = found;
    }
    const std::lock_guard lock(mutex);
    result.places.all.merge(places.all);
    result.places.received.merge(places.received);
  });
  return result;
}

Difference worst_of(const Programme& programme) {
  const RunOptions options;
  return train(programme, options, run_on_one_rank(programme, options, 2)).worst;
}

void check_runs(const Model& model, const std::vector<const char*>& layouts) {
  for (const char* words : layouts) {
    const Difference worst = worst_of(tiny_programme(model, words));
    INFO(model.name, " under ", words, ": ", worst.what);
    CHECK(worst.relative < kTolerance);
  }
}

/// Each collective of a run left out, or done wrong, one at a time. Of faults that nobody notices there is none.
struct Faults {
  std::size_t killed = 0, total = 0;
  std::string survivors = "";

  void look(const Programme& programme, const std::string& name) {
    RunOptions options;
    // Logits far from zero: only the true maximum keeps the exponentials in range.
    options.first_values["lm_head"] = {40, 0.3};
    options.first_values["norm.weight"] = {1, 0.7};
    const auto one_rank = run_on_one_rank(programme, options, 1);
    const Trained right = train(programme, options, one_rank);
    INFO(name, ": ", right.worst.what);
    REQUIRE(right.worst.relative < kTolerance);
    for (const std::string& place : right.places.received)
      try_one(programme, options, one_rank, {Fault::Kind::drop, place}, name);
    for (const auto& [place, step] : right.places.all) {
      const bool adds = step == ReshardStep::all_reduce || step == ReshardStep::reduce_scatter;
      try_one(programme, options, one_rank, {Fault::Kind::drop, place}, name);
      // A ring's sums are additions of its own.
      if (adds && !place.starts_with("ring"))
        try_one(programme, options, one_rank, {Fault::Kind::operation, place}, name);
      if (step != ReshardStep::all_reduce) try_one(programme, options, one_rank, {Fault::Kind::misroute, place}, name);
    }
  }
  void try_one(const Programme& programme, const RunOptions& options, const std::vector<StepResult>& one_rank,
               const Fault& fault, const std::string& name) {
    ++total;
    bool noticed = true;
    try {
      noticed = train(programme, options, one_rank, fault).worst.relative > kTolerance;
    } catch (const std::logic_error&) {  // ranks that no longer fit together
    }
    if (noticed)
      ++killed;
    else
      survivors += name + ": " + std::to_string(static_cast<int>(fault.kind)) + " " + fault.place + "\n";
  }
};

}  // namespace

TEST_CASE("one rank with fp32 operators trains as one rank in double precision") {
  for (const Model& model : tiny_models()) check_runs(model, {"batch 4"});
}

TEST_CASE("tensor and sequence parallel ranks train as one rank does") {
  for (const Model& model : tiny_models()) check_runs(model, {"tp 2", "tp 2 sp", "tp 4 sp"});
}

TEST_CASE("data parallel ranks train as one rank does at every stage of ZeRO") {
  for (const Model& model : tiny_models())
    check_runs(model, {"dp 2", "dp 2 zero 1 group 2", "dp 2 zero 2 group 2", "dp 2 zero 3 group 2",
                       "dp 3 zero 3 group 3", "dp 4 zero 3 group 2", "dp 4 zero 1 group 2", "dp 4 zero 2 group 2"});
}

TEST_CASE("pipelines train as one rank does under every schedule") {
  for (Model model : tiny_models()) {
    model.num_hidden_layers = 4;
    check_runs(model, {"pp 2 gpipe batch 3", "pp 2 1f1b batch 3", "pp 2 vpp 2 interleaved batch 4",
                       "pp 2 zb-h1 batch 3", "pp 2 zb-h2 batch 3", "pp 2 zb-1p batch 3", "pp 2 zb-2p batch 3",
                       "pp 2 vpp 2 zb-v batch 3", "pp 2 dualpipe batch 4", "pp 2 vpp 2 dualpipe-v batch 5"});
    model.num_hidden_layers = 9;
    check_runs(model, {"pp 4 gpipe batch 5", "pp 4 1f1b batch 5", "pp 4 vpp 2 interleaved batch 8",
                       "pp 4 zb-h1 batch 5", "pp 4 zb-h2 batch 7", "pp 4 zb-1p batch 5", "pp 4 zb-2p batch 5",
                       "pp 4 vpp 2 zb-v batch 5", "pp 4 dualpipe batch 8", "pp 4 vpp 2 dualpipe-v batch 9"});
  }
}

TEST_CASE("context parallel ranks train as one rank does, by gathering, in a ring, and with heads for sequence") {
  for (const Model& model : tiny_models())
    check_runs(model, {"cp 2", "cp 2 ring", "cp 2 ulysses", "cp 4 ring", "tp 2 cp 2 ulysses", "tp 2 sp cp 2"});
}

TEST_CASE("ranks that share experts train as one rank does, however uneven their rows are") {
  for (Model model : {tiny_experts(), tiny_gated()})
    check_runs(model, {"dp 2 ep 2", "dp 4 ep 4", "dp 4 ep 2 etp 2", "tp 2 sp ep 2", "tp 2 sp dp 2 ep 4",
                       "tp 2 sp dp 2 ep 2 etp 2", "tp 2 dp 2 ep 4", "tp 2 etp 2", "dp 4 ep 2 zero 1 group 4",
                       "dp 4 ep 2 zero 3 group 4", "dp 2 ep 2 allgather", "cp 2 dp 2 ep 4", "tp 2 cp 2 ep 2 etp 2"});
}

TEST_CASE("mixtures of all on four ranks train as one rank does") {
  for (const Model& model : tiny_models())
    check_runs(model, {"tp 2 sp pp 2 zb-h1 batch 3", "dp 2 pp 2 zero 1 group 2 batch 4", "tp 2 dp 2 zero 3 group 2",
                       "cp 2 pp 2 1f1b batch 3", "dp 2 pp 2 vpp 2 interleaved zero 2 group 2 batch 4 layers 4",
                       "dp 2 pp 2 dualpipe zero 3 group 2 batch 8 dp-last", "tp 2 sp cp 2 full micro 2"});
}

TEST_CASE("ranks prefill a prompt and decode eight tokens as one rank does that reads all tokens every time") {
  constexpr int kTokens = 8;
  std::vector<Model> models = tiny_models();
  models.push_back(tiny_gated());
  for (Model& model : models) {
    model.max_position_embeddings = 40;
    for (const char* words : {"micro 2",
                              "tp 2",
                              "tp 4 micro 2",
                              "pp 2 gpipe",
                              "dp 2",
                              "dp 2 zero 3 group 2",
                              "tp 2 pp 2 gpipe micro 2",
                              "dp 2 ep 2",
                              "tp 2 sp",
                              "cp 2 ring",
                              "cp 2 ulysses",
                              "dp 4 ep 2 etp 2",
                              "tp 2 sp dp 2 ep 4",
                              "tp 2 etp 2",
                              "cp 2 dp 2 ep 4",
                              "tp 2 sp pp 2 zb-h1 batch 3",
                              "dp 2 pp 2 vpp 2 interleaved zero 2 group 2 batch 4 layers 4",
                              "cp 2 pp 2 1f1b batch 3",
                              "tp 2 sp cp 2 micro 2",
                              "tp 2 dp 2 zero 3 group 2",
                              "pp 4 vpp 2 zb-v batch 5"}) {
      const bool shares_experts =
          std::string(words).find("ep 2") != std::string::npos || std::string(words).find("ep 4") != std::string::npos;
      if (shares_experts && model.n_routed_experts == 0) continue;
      const Programme programme = tiny_programme(model, words, true);
      RunOptions options;
      options.trains = false;
      const Generated one_rank = generate_on_one_rank(programme, options, kTokens);
      const InferenceSteps steps = inference_steps(programme);
      run_on_threads(static_cast<int>(programme.ranks()), [&](Communicator& world) {
        const auto operators = make_operators("cpu");
        Memory memory(*operators);
        NoRecorder recorder;
        const Fault none;
        Executor executor(programme, world, *operators, memory, recorder, options, none);
        const Difference worst =
            difference(generate(executor, steps, prompt_of(programme, options.seed), kTokens), one_rank);
        if (world.rank() != 0) return;
        INFO(model.name, " under ", words, ": ", worst.what);
        CHECK(worst.relative < kTolerance);
      });
    }
  }
}

TEST_CASE("ranks whose memory the host cannot reach train and decode as one rank does") {
  constexpr int kTokens = 3;
  const auto check = [&](const Programme& programme, bool decodes, const std::string& name) {
    const RunOptions trains;
    RunOptions answers;
    answers.trains = false;
    const std::vector<StepResult> one_rank = run_on_one_rank(programme, trains, 2);
    const Generated generated = decodes ? generate_on_one_rank(programme, answers, kTokens) : Generated{};
    run_on_threads(static_cast<int>(programme.ranks()), [&](Communicator& host) {
      const auto cpu = make_operators("cpu");
      FarOperators operators(*cpu);
      FarCommunicator world(host, operators);
      Memory memory(operators);
      NoRecorder recorder;
      const Fault none;
      Executor executor(programme, world, operators, memory, recorder, trains, none);
      for (std::size_t step = 0; step < one_rank.size(); ++step) {
        executor.train(static_cast<std::int64_t>(step));
        const Difference worst = difference(executor, executor.loss(), one_rank[step], operators);
        if (!(worst.relative < kTolerance)) throw std::runtime_error(name + " trains otherwise: " + worst.what);
      }
      if (!decodes) return;
      const InferenceSteps steps = inference_steps(programme);
      Executor rank(programme, world, operators, memory, recorder, answers, none);
      const Difference worst =
          difference(generate(rank, steps, prompt_of(programme, answers.seed), kTokens), generated);
      if (!(worst.relative < kTolerance)) throw std::runtime_error(name + " answers otherwise: " + worst.what);
    });
  };
  for (Model model : {tiny_dense(), tiny_latent(), tiny_gated()}) {
    model.max_position_embeddings = 40;
    for (const char* words :
         {"tp 2 sp", "tp 2", "cp 2 ring", "cp 2 ulysses", "dp 2 zero 3 group 2", "dp 2 zero 1 group 2",
          "pp 2 zb-h1 batch 3", "pp 2 gpipe", "dp 2 ep 2", "tp 2 sp dp 2 ep 2 etp 2"}) {
      const std::string layout = words;
      const bool shares_experts = layout.find("ep 2") != std::string::npos;
      if (shares_experts && model.n_routed_experts == 0) continue;
      const bool decodes = layout == "tp 2" || layout == "pp 2 gpipe" || layout == "dp 2 ep 2";
      CHECK_NOTHROW(check(tiny_programme(model, words), decodes, model.name + " under " + words));
    }
  }
}

TEST_CASE("no collective of a run can be left out, misrouted or done with another operation") {
  Faults faults;
  const auto look = [&](const Model& model, const std::vector<const char*>& layouts) {
    for (const char* words : layouts) faults.look(tiny_programme(model, words), model.name + " under " + words);
  };
  // Without rotation or a norm behind it, the gradient of a key's bias is exactly zero: softmax does not feel it.
  Model biases = tiny_tied();
  biases.tie_word_embeddings = false;
  biases.qk_norm = QkNorm::head;
  Model experts = tiny_experts();
  experts.first_k_dense_replace = 0;
  look(tiny_dense(), {"tp 2 layers 1", "tp 2 sp layers 1", "cp 2 layers 1", "cp 2 ulysses layers 1", "dp 2 layers 1",
                      "dp 2 zero 1 group 2 layers 1", "dp 2 zero 2 group 2 layers 1", "dp 2 zero 3 group 2 layers 1",
                      "dp 4 zero 1 group 2 layers 1"});
  Model few_keys = tiny_dense();
  few_keys.num_key_value_heads = 2;
  look(few_keys, {"tp 4 sp layers 1"});
  look(biases, {"tp 2 layers 1", "tp 2 sp pp 2", "cp 2 ring layers 1"});
  look(tiny_tied(), {"pp 2"});
  look(tiny_latent(), {"tp 2 sp layers 1", "cp 2 ring layers 1", "tp 2 cp 2 ulysses layers 1"});
  look(experts, {"dp 2 ep 2 layers 1", "tp 2 sp ep 2 layers 1", "tp 2 ep 2 layers 1", "tp 2 sp etp 2 layers 1",
                 "dp 4 ep 2 etp 2 layers 1", "dp 2 ep 2 allgather layers 1",
                 "dp 2 pp 2 dualpipe zero 3 group 2 batch 8 dp-last"});
  look(tiny_gated(), {"tp 2 sp ep 2 layers 1"});
  MESSAGE("faults noticed " << faults.killed << "/" << faults.total);
  CHECK(faults.survivors == "");
  CHECK(faults.killed == faults.total);
  CHECK(faults.total > 500);
}

}  // namespace shardwright
