#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "hardware/kernel_spec.h"
#include "kernels/operators.h"

namespace shardwright {

// How far a kernel is off the reference where all results would take long: at some of their places.

/// The largest, or NaN where one of them is.
double worst_of(std::initializer_list<double> all);
/// Largest difference, relative to the largest expected number; NaN where a difference is none.
double off_by(const std::vector<double>& got, const std::vector<double>& expected);
/// Some of 0..count - 1: the first, the last, and between them.
std::vector<std::int64_t> sample(std::int64_t count);

/// Where the arrays of a measured attention lie in what it is given and in what it makes, one behind the other: for
/// each part of the scores queries and keys, then values; o and its log-sum-exp; gradients as what they are of.
struct AttentionPlaces {
  AttentionShape shape;
  std::vector<std::int64_t> widths;  // of the parts of the scores
  bool values_in_keys = false;
  std::int64_t rows = 0, keys = 0;  // of all heads
  Element element = Element::fp32;

  AttentionViews inputs(const void* in) const;
  std::int64_t input_elements() const;
  AttentionGradientViews gradients(void* out) const;
  std::int64_t gradient_elements() const;
  std::int64_t result_elements() const { return rows * shape.value_dim; }
  /// One of its batch, in fp32.
  AttentionPlaces one_of_batch() const;
};
AttentionPlaces places_of(const AttentionSpec& spec, Element element);
/// Why no backend's operators compute such an attention, "" where they may.
std::string no_operators_for(const AttentionSpec& spec);

// All of the host's memory, in fp32.

/// Of o at sampled queries.
double attention_error(const AttentionPlaces& p, const float* in, const float* o);
/// Gradients of queries are compared with the reference, of sampled ones. Those of keys and values, to which all
/// queries add, by what follows from them: o is linear in v, so that d_v . v = o . d_o; scores are bilinear, so that
/// d_k . k = d_q . q.
double attention_gradient_error(const AttentionPlaces& p, const float* in, const float* o, const float* d_o, float* d);

}  // namespace shardwright
