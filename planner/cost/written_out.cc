#include "planner/cost/written_out.h"

#include <cassert>

namespace shardwright {
namespace {

WrittenOut sum(std::initializer_list<WrittenOut> kernels) {
  WrittenOut all{0, 0, 0};
  for (const WrittenOut& k : kernels) {
    all.kernels += k.kernels;
    all.narrow += k.narrow;
    all.wide += k.wide;
  }
  return all;
}

constexpr WrittenOut kCast{1, 1, 1};       // one side in fp32
constexpr WrittenOut kWideUnary{1, 0, 2};  // also a product with one number a row
constexpr WrittenOut kWideBinary{1, 0, 3};
constexpr WrittenOut kWideSum{1, 0, 1};  // to one number a row
constexpr WrittenOut kUnary{1, 2, 0};    // also a product with the weight's row
constexpr WrittenOut kBinary{1, 3, 0};
constexpr WrittenOut kSum{1, 1, 0};   // to one number a column
constexpr WrittenOut kHalf{1, 1, 0};  // half of it read and written
constexpr WrittenOut kFill{1, 1, 0};

}  // namespace

WrittenOut written_out(const Operator& op, bool backward) {
  constexpr WrittenOut norm_of_copy{1, 1, 1}, its_gradient{1, 1, 2};
  if (op.on_fp32_copy) return backward ? sum({kCast, norm_of_copy, its_gradient, kCast}) : sum({kCast, norm_of_copy});
  if (op.kind == OpKind::gated_silu) return backward ? sum({kBinary, kBinary, kBinary}) : sum({kUnary, kBinary});
  if (op.kind == OpKind::rotary) {
    if (!backward) return sum({kUnary, kHalf, kUnary, kUnary, kBinary});  // cos, minus, concatenation, sin, sum
    // Of sin, cos and the minus; each half of the input has a gradient of full size, zeros but for it; two sums.
    return sum({kUnary, kUnary, kHalf, kFill, kHalf, kFill, kHalf, kBinary, kBinary});
  }
  assert(op.kind == OpKind::rms_norm);
  if (!backward) return sum({kCast, kWideUnary, kWideSum, kWideUnary, kCast, kUnary});
  return sum({kUnary, kBinary, kSum,               // of the product with the weight: x's gradient and the weight's
              kCast,                               // to fp32
              kWideUnary, kWideBinary, kWideSum,   // of the scaling: x's gradient and the scale's
              kWideUnary, kWideUnary, kWideUnary,  // of the square: its power, times two, times the mean's gradient
              kWideBinary,                         // x's two gradients added
              kCast});
}

}  // namespace shardwright
