#include <algorithm>
#include <climits>
#include <cmath>
#include <vector>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/operands.h"

namespace shardwright {
namespace {

using cuda::Block;
using cuda::Candidate;

/// The best experts of one row, one after the other. Each thread looks after every so many-th expert.
template <typename Number>
struct Choose {
  const Number* logits;
  std::int64_t experts, chosen;
  cuda::Numbers d_gate;
  cuda::Places gate, mask, d_logits;  // without data: not wanted

  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    auto* const value = reinterpret_cast<float*>(block.shared());
    auto* const taken = reinterpret_cast<unsigned char*>(value + experts);
    const std::int64_t at = row * experts;
    float no_numbers = 0;
    for (std::int64_t e = block.thread(); e < experts; e += block.threads()) {
      value[e] = cuda::to_float(logits[at + e]);
      taken[e] = 0;
      if (value[e] != value[e]) no_numbers = 1;
    }
    const bool none = block.largest(no_numbers) > 0;
    for (std::int64_t i = 0; i < chosen && !none; ++i) {
      Candidate mine = {-INFINITY, INT_MAX};
      for (std::int64_t e = block.thread(); e < experts; e += block.threads())
        if (!taken[e]) mine = cuda::better(mine, {value[e], static_cast<int>(e)});
      const int winner = block.best(mine).index;
      if (winner < experts && winner % block.threads() == block.thread()) taken[winner] = 1;
    }
    for (std::int64_t e = block.thread(); e < experts; e += block.threads()) {
      const float share = 1.0f / (1.0f + expf(-value[e])), nothing = none ? NAN : 0.0f;
      if (gate.data) gate.set(at + e, taken[e] ? share : nothing);
      if (mask.data) mask.set(at + e, taken[e] ? 1.0f : 0.0f);
      if (d_logits.data) d_logits.set(at + e, taken[e] ? d_gate.at(at + e) * share * (1.0f - share) : nothing);
    }
  }
};

/// Tokens in runs, each of which is counted, and later listed, by one block; a thread looks after an expert.
struct Runs {
  std::int64_t tokens, experts, run;  // run: tokens of one
  std::int64_t count() const { return (tokens + run - 1) / run; }
};

struct CountRun {
  cuda::Numbers mask;
  Runs runs;
  std::int64_t* counts;  // [runs][experts]
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t run) const {
    const std::int64_t first = run * runs.run, end = first + runs.run < runs.tokens ? first + runs.run : runs.tokens;
    for (std::int64_t e = block.thread(); e < runs.experts; e += block.threads()) {
      std::int64_t count = 0;
      for (std::int64_t t = first; t < end; ++t) count += mask.at(t * runs.experts + e) != 0.0f;
      counts[run * runs.experts + e] = count;
    }
  }
};

/// Of one expert: what runs count becomes what all before them have; its tokens in all.
struct AddRuns {
  std::int64_t *counts, *totals;
  std::int64_t runs, experts;
  SHARDWRIGHT_DEVICE void operator()(std::int64_t expert) const {
    std::int64_t sum = 0;
    for (std::int64_t r = 0; r < runs; ++r) {
      const std::int64_t count = counts[r * experts + expert];
      counts[r * experts + expert] = sum;
      sum += count;
    }
    totals[expert] = sum;
  }
};

struct ListRun {
  cuda::Numbers mask;
  Runs runs;
  const std::int64_t *before, *totals;
  std::int64_t* token_of_row;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t run) const {
    const std::int64_t first = run * runs.run, end = first + runs.run < runs.tokens ? first + runs.run : runs.tokens;
    for (std::int64_t e = block.thread(); e < runs.experts; e += block.threads()) {
      std::int64_t row = before[run * runs.experts + e];
      for (std::int64_t other = 0; other < e; ++other) row += totals[other];
      for (std::int64_t t = first; t < end; ++t)
        if (mask.at(t * runs.experts + e) != 0.0f) token_of_row[row++] = t;
    }
  }
};

/// About a thousand runs, none too short.
Runs runs_of(In mask, std::int64_t experts) {
  const std::int64_t tokens = mask.elements / experts;
  return {tokens, experts, std::max<std::int64_t>(64, tokens / 1024)};
}

/// Counts of the runs, then totals, as CountRun and AddRuns leave them in `at`.
std::int64_t* count_experts(cuda::Device& device, In mask, const Runs& runs) {
  const std::int64_t count = runs.count();
  auto* at = static_cast<std::int64_t*>(
      device.scratch({(count + 1) * runs.experts * static_cast<std::int64_t>(sizeof(std::int64_t))}));
  cuda::launch_blocks(device, count, cuda::threads_for(runs.experts), 0, CountRun{mask, runs, at});
  cuda::launch_each(device, runs.experts, AddRuns{at, at + count * runs.experts, count, runs.experts});
  return at;
}

/// Groups of as many rows: one call of the library, as a batch.
bool alike(std::span<const std::int64_t> rows_per_group) {
  return std::all_of(rows_per_group.begin(), rows_per_group.end(),
                     [&](std::int64_t rows) { return rows == rows_per_group[0]; });
}

}  // namespace

void CudaOperators::choose(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View gate, View mask,
                           View d_logits) {
  if (logits.empty()) return;
  cuda::visit_format(logits.element, [&](auto number) {
    using Number = decltype(number);
    constexpr std::int64_t kOneWarp = 1024;  // experts
    const Choose<Number> kernel = {cuda::data_of<Number>(logits), experts, chosen, d_gate, gate, mask, d_logits};
    cuda::launch_blocks(device_, logits.elements / experts, experts <= kOneWarp ? cuda::kWarp : 256,
                        experts * static_cast<std::int64_t>(sizeof(float) + 1), kernel);
  });
}

void CudaOperators::route(In logits, std::int64_t experts, std::int64_t chosen, View gate, View mask) {
  choose(logits, {}, experts, chosen, gate, mask, {});
}
void CudaOperators::route_gradient(In logits, In d_gate, std::int64_t experts, std::int64_t chosen, View d_logits) {
  choose(logits, d_gate, experts, chosen, {}, {}, d_logits);
}

std::vector<std::int64_t> CudaOperators::rows_per_expert(In mask, std::int64_t experts) {
  const Runs runs = runs_of(mask, experts);
  const std::int64_t* counted = count_experts(device_, mask, runs);
  std::vector<std::int64_t> totals(static_cast<std::size_t>(experts));
  device_.download(counted + runs.count() * experts, totals.data(),
                   {experts * static_cast<std::int64_t>(sizeof(std::int64_t))});
  return totals;
}

void CudaOperators::expert_rows(In mask, std::int64_t experts, View token_of_row) {
  const Runs runs = runs_of(mask, experts);
  const std::int64_t* counted = count_experts(device_, mask, runs);
  auto* rows = const_cast<std::int64_t*>(cuda::ids_of(token_of_row));
  cuda::launch_blocks(device_, runs.count(), cuda::threads_for(experts), 0,
                      ListRun{mask, runs, counted, counted + runs.count() * experts, rows});
}

void CudaOperators::grouped_contraction(In x, In b, std::span<const std::int64_t> rows_per_group, bool transposed,
                                        View y) {
  std::int64_t rows = 0, first = 0, group = 0;
  for (const std::int64_t r : rows_per_group) rows += r;
  if (rows == 0) return;
  const std::int64_t k = x.elements / rows, n = y.elements / rows;
  if (alike(rows_per_group)) {
    const std::int64_t m = rows_per_group[0], groups = static_cast<std::int64_t>(rows_per_group.size());
    return contract(
        x, b, y,
        {{groups, m * k, k * n, m * n}, {m, k, 0, n}, {n, 0, transposed ? k : 1, 1}, {k, 1, transposed ? 1 : n, 0}},
        false);
  }
  for (const std::int64_t m : rows_per_group) {
    if (m > 0)
      contract(x.part(first * k, m * k), b.part(group * k * n, k * n), y.part(first * n, m * n),
               {{m, k, 0, n}, {n, 0, transposed ? k : 1, 1}, {k, 1, transposed ? 1 : n, 0}}, false);
    first += m, ++group;
  }
}

void CudaOperators::grouped_contraction_gradient(In x, In dy, std::span<const std::int64_t> rows_per_group, View d_b,
                                                 bool accumulate) {
  std::int64_t rows = 0, first = 0, group = 0;
  for (const std::int64_t r : rows_per_group) rows += r;
  if (rows == 0) {
    if (!accumulate) fill(d_b, 0);
    return;
  }
  const std::int64_t k = x.elements / rows, n = dy.elements / rows;
  if (alike(rows_per_group)) {
    const std::int64_t m = rows_per_group[0], groups = static_cast<std::int64_t>(rows_per_group.size());
    return contract(x, dy, d_b, {{groups, m * k, m * n, k * n}, {k, 1, 0, n}, {n, 0, 1, 1}, {m, k, n, 0}}, accumulate);
  }
  for (const std::int64_t m : rows_per_group) {
    contract(x.part(first * k, m * k), dy.part(first * n, m * n), d_b.part(group * k * n, k * n),
             {{k, 1, 0, n}, {n, 0, 1, 1}, {m, k, n, 0}}, accumulate);
    first += m, ++group;
  }
}

}  // namespace shardwright
