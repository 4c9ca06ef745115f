#include "profiler/execute/equality.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/backends.h"
#include "kernels/host/host_operators.h"
#include "kernels/threads/threads_communicator.h"
#include "planner/shard/blocks.h"

namespace shardwright {
namespace {

double largest(const std::vector<double>& numbers) {
  double most = 0;
  for (double x : numbers) most = std::max(most, std::abs(x));
  return most;
}

double quadratic_mean(const std::vector<double>& numbers) {
  double sum = 0;
  for (double x : numbers) sum += x * x;
  return numbers.empty() ? 0 : std::sqrt(sum / static_cast<double>(numbers.size()));
}

/// This rank's block, or its piece of it, of a whole array.
std::vector<double> own_part(const Executor& rank, const Weights::Weight& w, const std::vector<double>& whole,
                             bool piece) {
  const Programme& p = rank.programme();
  const RunGraph& g = *w.graph;
  const DimList& dims = g.graph.tensor(w.state.tensor).dims;
  BlockPlace place = {block_extents(dims, g.extents, w.placement, p.mesh),
                      block_begin(dims, g.extents, w.placement, p.mesh, rank.line()),
                      {}};
  for (DimId d : dims) place.whole.push_back(g.extents[d]);
  std::vector<double> block;
  for_each_in_block(place, [&](std::int64_t index) { block.push_back(whole[static_cast<std::size_t>(index)]); });
  if (!piece) return block;
  const FlatPiece flat = flat_piece(p.mesh, rank.line(), w.cut, static_cast<std::int64_t>(block.size()));
  block.resize(static_cast<std::size_t>(flat.parts * flat.length), 0.0);
  return {block.begin() + flat.first(), block.begin() + flat.first() + flat.length};
}

void look(const std::vector<double>& ours, const std::vector<double>& theirs, double scale, const std::string& what,
          Difference& worst) {
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  if (ours.size() != theirs.size()) {
    worst = {kWrong, what};
    return;
  }
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double error = std::abs(ours[i] - theirs[i]) / scale;
    if (std::isnan(error) && worst.relative < kWrong) worst = {kWrong, what};
    if (error > worst.relative) worst = {error, what};
  }
}

/// The same of their quadratic mean.
void look_at_all(std::vector<double> ours, const std::vector<double>& theirs, double scale, const std::string& what,
                 Difference& worst) {
  const bool alike = ours.size() == theirs.size();
  for (std::size_t i = 0; alike && i < ours.size(); ++i) ours[i] -= theirs[i];
  const double error = quadratic_mean(ours) / scale;
  if (!alike || std::isnan(error))
    worst = {std::numeric_limits<double>::infinity(), what};
  else if (error > worst.relative)
    worst = {error, what};
}

/// The most likely token of each sequence; of padding none.
std::vector<std::int64_t> most_likely(const std::vector<double>& logits, std::size_t sequences, std::int64_t known) {
  std::vector<std::int64_t> chosen;
  const std::size_t width = logits.size() / sequences;
  for (std::size_t s = 0; s < sequences; ++s) {
    const auto first = logits.begin() + static_cast<std::ptrdiff_t>(s * width);
    chosen.push_back(std::max_element(first, first + known) - first);
  }
  return chosen;
}

std::size_t sequences_of(const Programme& p) {
  return static_cast<std::size_t>(p.graphs[0].extents[static_cast<std::size_t>(p.graphs[0].graph.find_dim("batch"))]);
}

void keep(Generated& generated, std::vector<double> logits, const Programme& p) {
  generated.tokens.push_back(most_likely(logits, sequences_of(p), p.model.vocab_size));
  generated.logits.push_back(std::move(logits));
}

}  // namespace

std::vector<std::int64_t> prompt_of(const Programme& p, std::uint64_t seed) {
  std::vector<std::int64_t> prompt(sequences_of(p) * static_cast<std::size_t>(p.sequence_length));
  for (std::size_t i = 0; i < prompt.size(); ++i)
    prompt[i] = static_cast<std::int64_t>(random_bits(seed, i) % static_cast<std::uint64_t>(p.model.vocab_size));
  return prompt;
}

InferenceSteps inference_steps(const Programme& programme) {
  return {at_length(programme, programme.sequence_length), at_length(programme, 1)};
}

Generated generate(Executor& rank, const InferenceSteps& steps, const std::vector<std::int64_t>& prompt, int tokens) {
  Generated generated;
  rank.forget_sequences();
  keep(generated, rank.answer(steps.prefill, prompt), rank.programme());
  for (int i = 0; i < tokens; ++i)
    keep(generated, rank.answer(steps.decode, generated.tokens.back()), rank.programme());
  return generated;
}

Generated generate_on_one_rank(const Programme& programme, const RunOptions& options, int tokens) {
  Generated generated;
  const Programme one = on_one_rank(programme);
  std::vector<std::int64_t> all = prompt_of(programme, options.seed);
  run_on_threads(1, [&](Communicator& world) {
    const auto operators = make_operators("reference");
    Memory memory(*operators);
    NoRecorder recorder;
    for (std::int64_t length = one.sequence_length; length <= one.sequence_length + tokens; ++length) {
      const Programme step = at_length(one, length);
      Executor executor(one, world, *operators, memory, recorder, options, {});
      keep(generated, executor.answer(step, all), one);
      std::vector<std::int64_t> longer;
      for (std::size_t s = 0; s < sequences_of(one); ++s) {
        const auto first = all.begin() + static_cast<std::ptrdiff_t>(s) * length;
        longer.insert(longer.end(), first, first + length);
        longer.push_back(generated.tokens.back()[s]);
      }
      all = std::move(longer);
    }
  });
  return generated;
}

double equal_tolerance(DataType compute) {
  if (compute == DataType::bf16) return 0.16;
  return compute == DataType::fp16 ? 0.02 : 1e-4;
}

namespace {

/// Whether for every sequence the tokens that two chose are about as likely.
bool are_ties(const std::vector<double>& logits, const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b,
              double distance) {
  const std::size_t width = logits.size() / a.size();
  for (std::size_t s = 0; s < a.size(); ++s)
    if (std::abs(logits[s * width + static_cast<std::size_t>(a[s])] -
                 logits[s * width + static_cast<std::size_t>(b[s])]) > distance)
      return false;
  return true;
}

}  // namespace

Difference difference(const Generated& ranks, const Generated& one_rank, double tie) {
  Difference worst;
  for (std::size_t i = 0; i < one_rank.logits.size(); ++i) {
    const std::string what = i == 0 ? "logits of the prompt" : "logits of token " + std::to_string(i);
    if (i >= ranks.logits.size()) return {std::numeric_limits<double>::infinity(), what};
    look(ranks.logits[i], one_rank.logits[i], std::max(1e-30, largest(one_rank.logits[i])), what, worst);
    if (ranks.tokens[i] == one_rank.tokens[i]) continue;
    if (are_ties(one_rank.logits[i], ranks.tokens[i], one_rank.tokens[i], tie * largest(one_rank.logits[i]))) break;
    return {std::numeric_limits<double>::infinity(), what};
  }
  return worst;
}

std::vector<StepResult> run_on_one_rank(const Programme& programme, const RunOptions& options, int steps) {
  std::vector<StepResult> results;
  const Programme one = on_one_rank(programme);
  run_on_threads(1, [&](Communicator& world) {
    const auto operators = make_operators("reference");
    Memory memory(*operators);
    NoRecorder recorder;
    Executor executor(one, world, *operators, memory, recorder, options, {});
    for (int step = 0; step < steps; ++step) {
      executor.train(step);
      StepResult result;
      result.loss = executor.loss();
      for (const auto& [name, w] : executor.weights().all()) {
        result.weights[name] = operators->download(w.value.view);
        if (w.reduced) result.gradients[name] = operators->download(w.reduced.view);
      }
      results.push_back(std::move(result));
    }
  });
  return results;
}

Difference difference(const Executor& rank, double loss, const StepResult& one, Operators& operators) {
  Difference worst;
  const bool narrow = rank.compute() != DataType::fp32;
  look({loss}, {one.loss}, std::max(1.0, std::abs(one.loss)) / (narrow ? 8 : 1), "loss", worst);
  const auto size_of = narrow ? quadratic_mean : largest;
  const auto compare = [&](const std::vector<double>& ours, const std::vector<double>& theirs, double scale,
                           const std::string& what) {
    narrow ? look_at_all(ours, theirs, scale, what, worst) : look(ours, theirs, scale, what, worst);
  };
  double of_all = 0;
  for (const auto& [name, gradient] : one.gradients) of_all = std::max(of_all, size_of(gradient));
  const double least = of_all * (narrow ? 0.1 : 1e-3);
  for (const auto& [name, w] : rank.weights().all()) {
    const std::vector<double>& whole = one.weights.at(name);
    const bool stored_cut = w.cut && w.graph->says.zero == 3;
    compare(operators.download(w.value.view), own_part(rank, w, whole, stored_cut), size_of(whole), name);
    const auto gradient = one.gradients.find(name);
    if ((gradient != one.gradients.end()) != static_cast<bool>(w.reduced)) {
      worst = {std::numeric_limits<double>::infinity(), "gradient of " + name};
    } else if (w.reduced) {
      compare(operators.download(w.reduced.view), own_part(rank, w, gradient->second, w.cut != 0),
              std::max(size_of(gradient->second), least), "gradient of " + name);
    }
  }
  return worst;
}

}  // namespace shardwright
