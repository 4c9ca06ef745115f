#include "kernels/sampled_error.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/reference/reference.h"

namespace shardwright {

double worst_of(std::initializer_list<double> all) {
  double worst = 0;
  for (const double x : all) {
    if (std::isnan(x)) return x;
    worst = std::max(worst, x);
  }
  return worst;
}

double off_by(const std::vector<double>& got, const std::vector<double>& expected) {
  double largest = 0, worst = 0;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < got.size(); ++i) { worst = worst_of({worst, std::abs(got[i] - expected[i])}); }
  return worst == 0 ? 0 : worst / largest;
}

std::vector<std::int64_t> sample(std::int64_t count) {
  constexpr std::int64_t kMost = 7;
  std::vector<std::int64_t> some;
  for (std::int64_t i = 0; i < std::min(count, kMost); ++i)
    some.push_back(count <= kMost ? i : i * (count - 1) / (kMost - 1));
  return some;
}

// ---- attention ----

namespace {

using reference::Array;

/// Hands out arrays that lie one behind the other.
struct Behind {
  char* at;
  Element element;
  View next(std::int64_t elements) {
    View view = {at, elements, element};
    at += elements * bytes_of(element);
    return view;
  }
};

}  // namespace

AttentionViews AttentionPlaces::inputs(const void* in) const {
  Behind behind = {static_cast<char*>(const_cast<void*>(in)), element};
  AttentionViews views;
  for (const std::int64_t width : widths) {
    const View q = behind.next(rows * width);
    views.parts.push_back({q, behind.next(keys * width), width, false});
    views.score_width += width;
  }
  views.v = values_in_keys ? views.parts[0].k : behind.next(keys * shape.value_dim);
  return views;
}

std::int64_t AttentionPlaces::input_elements() const {
  return gradient_elements() - (values_in_keys ? keys * shape.value_dim : 0);
}

AttentionGradientViews AttentionPlaces::gradients(void* out) const {
  Behind behind = {static_cast<char*>(out), element};
  AttentionGradientViews d;
  for (const std::int64_t width : widths) {
    d.q.push_back(behind.next(rows * width));
    d.k.push_back(behind.next(keys * width));
  }
  d.v = behind.next(keys * shape.value_dim);
  return d;
}

std::int64_t AttentionPlaces::gradient_elements() const {
  std::int64_t sum = keys * shape.value_dim;
  for (const std::int64_t width : widths) sum += (rows + keys) * width;
  return sum;
}

AttentionPlaces AttentionPlaces::one_of_batch() const {
  AttentionPlaces one = *this;
  one.rows /= shape.batch;
  one.keys /= shape.batch;
  one.shape.batch = 1;
  one.element = Element::fp32;
  return one;
}

AttentionPlaces places_of(const AttentionSpec& s, Element element) {
  AttentionPlaces p;
  p.element = element;
  const std::int64_t behind = s.key_length - s.query_length;
  // Queries that are some of the keys' positions lie in their middle: they see half of them, as their average does.
  const std::int64_t first = s.queries_last ? behind : behind / 2;
  p.shape = {s.batch,     s.query_length, s.key_length, s.kv_heads, s.heads / s.kv_heads,
             s.value_dim, first,          s.window,     0,          s.causal};
  if (!s.causal && s.window > 0) p.shape.first_query = s.key_length - 1, p.shape.causal = true;  // decode in a window
  p.values_in_keys = s.values_in_keys;
  // The latent is keys and values at once; the rest of the keys is a part of its own.
  if (s.values_in_keys && s.value_dim < s.head_dim)
    p.widths = {s.value_dim, s.head_dim - s.value_dim};
  else
    p.widths = {s.head_dim};
  p.rows = s.batch * s.query_length * s.heads;
  p.keys = s.batch * s.key_length * s.kv_heads;
  return p;
}

std::string no_operators_for(const AttentionSpec& s) {
  if (s.kv_heads <= 0 || s.heads % s.kv_heads != 0) return "the heads of keys do not divide those of queries";
  if (s.values_in_keys && s.value_dim > s.head_dim) return "values in keys cannot be wider than these";
  if (s.causal && s.query_length > s.key_length) return "causal attention has a key for each query";
  return "";
}

namespace {

/// One query by the reference, which is given the keys that it sees alone; its gradient, too, where there is that of o.
struct OneQuery {
  Array o, d_q;  // d_q: part after part
};
OneQuery one_query(const AttentionPlaces& p, const AttentionViews& in, std::int64_t b, std::int64_t i, std::int64_t h,
                   std::int64_t g, const float* d_o) {
  const AttentionShape& s = p.shape;
  const std::int64_t row = ((b * s.queries + i) * s.heads + h) * s.group + g;
  const KeyRange seen = s.keys_seen(i);
  Array values;
  reference::AttentionInputs inputs;
  std::vector<Array> held;
  for (const ScoreViews& part : in.parts) {
    const auto* x = static_cast<const float*>(part.q.data) + row * part.width;
    held.push_back({x, x + part.width});
    Array k;
    for (std::int64_t j = seen.first; j < seen.end; ++j) {
      const auto* y = static_cast<const float*>(part.k.data) + ((b * s.keys + j) * s.heads + h) * part.width;
      k.insert(k.end(), y, y + part.width);
    }
    held.push_back(std::move(k));
  }
  for (std::size_t n = 0; n < in.parts.size(); ++n)
    inputs.parts.push_back({held[2 * n], held[2 * n + 1], in.parts[n].width, false});
  for (std::int64_t j = seen.first; j < seen.end; ++j) {
    const auto* v = static_cast<const float*>(in.v.data) + ((b * s.keys + j) * s.heads + h) * s.value_dim;
    values.insert(values.end(), v, v + s.value_dim);
  }
  inputs.v = values;
  inputs.score_width = in.score_width;
  const std::int64_t count = seen.end - seen.first;
  const AttentionShape alone = {1, 1, count, 1, 1, s.value_dim, 0, 0, 0, false};
  const auto out = reference::attention(inputs, alone);
  OneQuery made = {out.o, {}};
  if (!d_o) return made;
  const Array d(d_o + row * s.value_dim, d_o + (row + 1) * s.value_dim);
  for (const Array& part : reference::attention_gradient(inputs, out.o, out.log_sum_exp, d, alone).q)
    made.d_q.insert(made.d_q.end(), part.begin(), part.end());
  return made;
}

/// Calls visit(row, query) for sampled queries.
template <typename Visit>
void for_each_sample(const AttentionPlaces& p, const AttentionViews& in, const float* d_o, Visit visit) {
  const AttentionShape& s = p.shape;
  for (const std::int64_t i : sample(s.queries))
    for (const std::int64_t h : {std::int64_t{0}, s.heads - 1}) {
      const std::int64_t b = i % s.batch, g = i % s.group;
      visit(((b * s.queries + i) * s.heads + h) * s.group + g, one_query(p, in, b, i, h, g, d_o));
    }
}

/// Of two arrays, element by element: their sum, and that of their sizes.
struct Products {
  double sum = 0, size = 0;
  Products& operator+=(const Products& other) {
    sum += other.sum, size += other.size;
    return *this;
  }
};
Products products(const In& a, const In& b) {
  Products p;
  for (std::int64_t i = 0; i < a.elements; ++i) {
    const double x = static_cast<double>(static_cast<const float*>(a.data)[i]) * static_cast<const float*>(b.data)[i];
    p += {x, std::abs(x)};
  }
  return p;
}

}  // namespace

double attention_error(const AttentionPlaces& p, const float* in, const float* o) {
  Array got, expected;
  for_each_sample(p, p.inputs(in), nullptr, [&](std::int64_t row, const OneQuery& q) {
    const float* made = o + row * p.shape.value_dim;
    got.insert(got.end(), made, made + p.shape.value_dim);
    expected.insert(expected.end(), q.o.begin(), q.o.end());
  });
  return off_by(got, expected);
}

double attention_gradient_error(const AttentionPlaces& p, const float* in, const float* o, const float* d_o,
                                float* gradients) {
  const AttentionViews views = p.inputs(in);
  const AttentionGradientViews d = p.gradients(gradients);
  const std::int64_t elements = p.result_elements();
  const Products v = products(d.v, views.v), through_o = products({o, elements, p.element}, {d_o, elements, p.element});
  Products q, k;
  for (std::size_t n = 0; n < views.parts.size(); ++n) {
    q += products(d.q[n], views.parts[n].q);
    k += products(d.k[n], views.parts[n].k);
  }
  Array got, expected;
  for_each_sample(p, views, d_o, [&](std::int64_t row, const OneQuery& one) {
    expected.insert(expected.end(), one.d_q.begin(), one.d_q.end());
    for (std::size_t n = 0; n < views.parts.size(); ++n) {
      const auto* d_q = static_cast<const float*>(d.q[n].data) + row * views.parts[n].width;
      got.insert(got.end(), d_q, d_q + views.parts[n].width);
    }
  });
  return worst_of(
      {off_by(got, expected), std::abs(v.sum - through_o.sum) / through_o.size, std::abs(q.sum - k.sum) / q.size});
}

}  // namespace shardwright
