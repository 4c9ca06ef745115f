#pragma once

#include <functional>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "profiler/clock.h"

namespace shardwright {

/// Moves by what it is told only.
class CountingClock final : public Clock {
 public:
  Seconds now() override { return time; }
  void pause(Seconds pause) override {
    time += pause;
    paused += pause;
  }
  Seconds time, paused;
};

/// A device whose kernels take what the test says, on a clock that counts. By a kernel's text: a function from the
/// number of the run (of that kernel, from 0) to its time.
class FakeBackend final : public Backend {
 public:
  using Durations = std::function<Timed(int run)>;
  explicit FakeBackend(CountingClock& counting) : clock(counting) {}

  CountingClock& clock;
  std::map<std::string, Durations> durations;
  std::map<std::string, std::string> lacks;  // why not
  std::map<std::string, double> errors;      // others 0
  std::vector<std::string> too_large;
  std::map<std::string, std::string> breaks;       // what is thrown when it is timed
  std::vector<std::pair<std::string, int>> timed;  // in order: kernel, runs

  std::string name() const override { return "fake"; }
  std::string library(KernelFamily) const override { return "fake 1.0"; }
  std::string unsupported(const KernelSpec& spec) const override {
    const auto why = lacks.find(to_string(spec));
    return why == lacks.end() ? "" : why->second;
  }
  double tolerance(const KernelSpec&) const override { return 1e-5; }
  std::unique_ptr<PreparedKernel> prepare(const KernelSpec& spec) override {
    const std::string text = to_string(spec);
    for (const std::string& large : too_large)
      if (large == text) throw std::bad_alloc();
    const auto error = errors.find(text);
    return std::make_unique<Kernel>(text, error == errors.end() ? 0.0 : error->second);
  }
  Timed time(PreparedKernel& kernel, int runs) override {
    auto& fake = static_cast<Kernel&>(kernel);
    if (const auto what = breaks.find(fake.text); what != breaks.end()) throw std::runtime_error(what->second);
    timed.emplace_back(fake.text, runs);
    Timed sum;
    const auto given = durations.find(fake.text);
    for (int i = 0; i < runs; ++i) {
      const Timed one = given == durations.end() ? Timed{{1e-3}, {1e-3}} : given->second(fake.run++);
      sum.wall += one.wall;
      sum.busy += one.busy;
    }
    clock.time += sum.wall;
    return {sum.wall * (1.0 / runs), sum.busy * (1.0 / runs)};
  }

 private:
  struct Kernel final : PreparedKernel {
    Kernel(std::string of, double off) : text(std::move(of)), error(off) {}
    void enqueue() override {}
    double max_relative_error() override { return error; }
    std::string text;
    double error;
    int run = 0;
  };
};

}  // namespace shardwright
