#include "kernels/memory_pass.h"

#include <algorithm>
#include <cassert>

namespace shardwright {
namespace {

constexpr std::int64_t kWidth = 512, kVocabulary = 4096, kHead = 64, kHeads = 8, kSequence = 128;

struct Arrays {
  int in, out;
};
Arrays arrays_in_and_out(MemoryPass pass) {
  switch (pass) {
    case MemoryPass::copy:
    case MemoryPass::gelu:
    case MemoryPass::rotary:
    case MemoryPass::gather:
    case MemoryPass::gather_gradient:
      return {1, 1};
    case MemoryPass::stream:
    case MemoryPass::sum:
    case MemoryPass::add_bias:
    case MemoryPass::add_bias_gradient:
    case MemoryPass::rms_norm:
    case MemoryPass::gelu_gradient:
    case MemoryPass::gated_silu:
    case MemoryPass::vocabulary_max:
    case MemoryPass::vocabulary_exp_sum:
      return {2, 1};
    case MemoryPass::layer_norm:
    case MemoryPass::vocabulary_exp_sum_gradient:
      return {3, 1};
    case MemoryPass::rms_norm_gradient:
      return {3, 2};
    case MemoryPass::gated_silu_gradient:
      return {3, 2};
    case MemoryPass::layer_norm_gradient:
      return {3, 3};
    case MemoryPass::adam:
      return {1, 3};
  }
  assert(false && "a pass without arrays");
  return {1, 1};
}

std::int64_t width_of(MemoryPass pass) {
  switch (pass) {
    case MemoryPass::vocabulary_max:
    case MemoryPass::vocabulary_exp_sum:
    case MemoryPass::vocabulary_exp_sum_gradient:
      return kVocabulary;
    case MemoryPass::rotary:
      return kHead;
    default:
      return kWidth;
  }
}

RotaryShape rotary(const PassShape& s) {
  RotaryShape r = {1, s.rows(), 1, s.width, 0};
  if (s.rows() % (kHeads * kSequence) == 0) r = {s.rows() / (kHeads * kSequence), kSequence, kHeads, s.width, 0};
  return r;
}

}  // namespace

PassShape pass_shape(const MemorySpec& spec, std::int64_t bytes_of_number) {
  const Arrays arrays = arrays_in_and_out(spec.pass);
  PassShape s = {1, 1, arrays.in, arrays.out};
  s.elements = std::max<std::int64_t>(2, spec.moved.value / (bytes_of_number * arrays_of(spec.pass)) / 2 * 2);
  s.width = std::min(width_of(spec.pass), s.elements);
  std::int64_t whole = s.width;  // rows that together make a shape
  if (spec.pass == MemoryPass::rotary && s.elements >= s.width * kHeads * kSequence) whole *= kHeads * kSequence;
  s.elements = s.elements / whole * whole;
  return s;
}

void run_pass(MemoryPass pass, Operators& o, const PassShape& s, In in, View out, In ids) {
  const std::int64_t n = s.elements, rows = s.rows(), width = s.width;
  const auto x = [&](int i, std::int64_t count) { return in.part(i * n, count); };
  const auto y = [&](int i, std::int64_t count) { return out.part(i * n, count); };
  const auto matrix = [&](In data) { return Labelled{data, {0, 1}, {rows, width}}; };
  switch (pass) {
    case MemoryPass::stream:
      return o.scale_rows(x(0, n), x(1, 1), y(0, n));
    case MemoryPass::copy:
      return o.cast(x(0, n), y(0, n));
    case MemoryPass::sum:
      return o.residual_sum({x(0, n), x(1, n)}, y(0, n));
    case MemoryPass::add_bias:
      return o.add_bias(matrix(x(0, n)), {x(1, width), {1}, {width}}, y(0, n));
    case MemoryPass::add_bias_gradient:
      return o.add_bias_gradient(matrix(x(0, n)), {1}, y(0, width));
    case MemoryPass::rms_norm:
      return o.rms_norm(x(0, n), x(1, width), y(0, n));
    case MemoryPass::rms_norm_gradient:
      return o.rms_norm_gradient(x(0, n), x(1, width), x(2, n), {y(0, n), y(1, width), {}});
    case MemoryPass::layer_norm:
      return o.layer_norm(x(0, n), x(1, width), x(2, width), y(0, n));
    case MemoryPass::layer_norm_gradient:
      return o.layer_norm_gradient(x(0, n), x(1, width), x(2, n), {y(0, n), y(1, width), y(2, width)});
    case MemoryPass::gelu:
      return o.gelu(x(0, n), y(0, n));
    case MemoryPass::gelu_gradient:
      return o.gelu_gradient(x(0, n), x(1, n), y(0, n));
    case MemoryPass::gated_silu:
      return o.gated_silu(x(0, n), x(1, n), y(0, n));
    case MemoryPass::gated_silu_gradient:
      return o.gated_silu_gradient(x(0, n), x(1, n), x(2, n), y(0, n), y(1, n));
    case MemoryPass::rotary:
      return o.rotary(x(0, n), rotary(s), y(0, n));
    case MemoryPass::vocabulary_max:
      return o.vocabulary_max(x(0, n), width, y(0, rows));
    case MemoryPass::vocabulary_exp_sum:
      return o.vocabulary_exp_sum(x(0, n), x(1, rows), width, y(0, rows));
    case MemoryPass::vocabulary_exp_sum_gradient:
      return o.vocabulary_exp_sum_gradient(x(0, n), x(1, rows), x(2, rows), width, y(0, n));
    case MemoryPass::gather:
      return o.gather(ids, x(0, n), 0, y(0, n));
    case MemoryPass::gather_gradient:
      return o.gather_gradient(ids, x(0, n), 0, y(0, n), true);
    case MemoryPass::adam:
      return o.adam_step({}, x(0, n), y(0, n), y(1, n), y(2, n));
  }
}

}  // namespace shardwright
