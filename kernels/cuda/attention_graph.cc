#include "kernels/cuda/attention_graph.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace shardwright::cuda {
namespace {

using Four = GraphTensor::Four;

Four dense(const Four& e) { return {e[1] * e[2] * e[3], e[2] * e[3], e[3], 1}; }

/// [batch, rows, heads, columns], as our arrays lie.
Four rows_before_heads(const Four& e) { return {e[2] * e[1] * e[3], e[3], e[1] * e[3], 1}; }

void swap_rows_and_columns(Four& four) { std::swap(four[2], four[3]); }

class Builder {
 public:
  explicit Builder(const AttentionGraphSpec& spec) : s_(spec) {
    type_ = spec.type == DataType::fp16 ? GraphType::fp16 : GraphType::bf16;
    scores_ = {s_.batch, s_.heads, s_.queries, s_.keys};
    rows_ = {s_.batch, s_.heads, s_.queries, 1};
  }

  AttentionGraph forward() {
    const Id q = given(GraphArray::q, queries(s_.width)), k = turned(GraphArray::k, s_.key_heads, s_.width);
    Id scores = masked(multiply_by_scale(step(GraphWork::product, q, k, scores_)));
    const Id top = step(GraphWork::largest, scores, 0, rows_);
    const Id powers = step(GraphWork::exponential, step(GraphWork::subtract, scores, top, scores_), 0, scores_);
    const Id total = step(GraphWork::sum, powers, 0, rows_);
    add(GraphWork::add, top, step(GraphWork::logarithm, total, 0, rows_), statistics());
    const Id p = step(GraphWork::divide, powers, total, scores_, type_);
    const Id v = given(GraphArray::v, {s_.batch, s_.value_heads, s_.keys, s_.value_width});
    add(GraphWork::product, p, v, given(GraphArray::o, queries(s_.value_width)));
    return std::move(graph_);
  }

  AttentionGraph backward() {
    const Id o = given(GraphArray::o, queries(s_.value_width)), d_o = given(GraphArray::d_o, queries(s_.value_width));
    // o times its gradient, of each row. Multiplied by 1 where dropout would stand: the engine's pattern has it.
    const Id products = step(GraphWork::multiply, d_o, o, queries(s_.value_width));
    const Id along = in_memory(GraphArray::along, rows_, dense(rows_), GraphType::fp32);
    add(GraphWork::multiply, step(GraphWork::sum, products, 0, rows_), number(1), along);

    const Id q = given(GraphArray::q, queries(s_.width)), k = turned(GraphArray::k, s_.key_heads, s_.width);
    const Id scores = multiply_by_scale(step(GraphWork::product, q, k, scores_));
    const Id below = masked(step(GraphWork::subtract, scores, statistics(), scores_));
    const Id p = step(GraphWork::exponential, below, 0, scores_);
    product_of_turned(p, d_o, GraphArray::d_v, s_.value_heads, s_.value_width);

    const Id v = turned(GraphArray::v, s_.value_heads, s_.value_width);
    const Id d_p = step(GraphWork::subtract, step(GraphWork::product, d_o, v, scores_), along, scores_);
    const Id d_scores = multiply_by_scale(step(GraphWork::multiply, d_p, p, scores_));
    product_of_turned(d_scores, q, GraphArray::d_k, s_.key_heads, s_.width);

    const Id keys = step(GraphWork::transpose, k, 0, {s_.batch, s_.key_heads, s_.keys, s_.width}, type_);
    tensor(keys).strides = rows_before_heads(tensor(keys).extents);
    // Blocks of keys add to it, in fp32.
    const Id d_q = in_memory(GraphArray::d_q_sum, queries(s_.width), dense(queries(s_.width)), GraphType::fp32);
    add(GraphWork::product, d_scores, keys, d_q);
    add(GraphWork::copy, d_q, 0, given(GraphArray::d_q, queries(s_.width)));
    return std::move(graph_);
  }

 private:
  using Id = std::int64_t;

  Four queries(std::int64_t width) const { return {s_.batch, s_.heads, s_.queries, width}; }
  GraphTensor& tensor(Id id) {
    return *std::find_if(graph_.tensors.begin(), graph_.tensors.end(), [id](const auto& t) { return t.id == id; });
  }
  Id in_memory(GraphArray array, const Four& extents, const Four& strides, GraphType type) {
    graph_.tensors.push_back({static_cast<Id>(array), type, extents, strides, {}, true});
    return graph_.tensors.back().id;
  }
  Id given(GraphArray array, const Four& extents) {
    return in_memory(array, extents, rows_before_heads(extents), type_);
  }
  /// Keys or values, columns of a product.
  Id turned(GraphArray array, std::int64_t heads, std::int64_t width) {
    const Id id = given(array, {s_.batch, heads, s_.keys, width});
    swap_rows_and_columns(tensor(id).extents);
    swap_rows_and_columns(tensor(id).strides);
    return id;
  }
  Id statistics() { return in_memory(GraphArray::log_sum_exp, rows_, rows_before_heads(rows_), GraphType::fp32); }
  Id number(double value, GraphType type = GraphType::fp32) {
    GraphTensor t;
    t.id = next_++, t.type = type, t.value = value;
    graph_.tensors.push_back(t);
    return t.id;
  }

  void add(GraphWork work, Id a, Id b, Id out, GraphType computed = GraphType::fp32) {
    graph_.steps.push_back({work, a, b, 0, out, computed});
  }
  Id step(GraphWork work, Id a, Id b, const Four& extents, GraphType type = GraphType::fp32,
          GraphType computed = GraphType::fp32) {
    GraphTensor t;
    t.id = next_++, t.type = type, t.extents = extents, t.strides = dense(extents);
    graph_.tensors.push_back(t);
    add(work, a, b, t.id, computed);
    return t.id;
  }

  Id multiply_by_scale(Id scores) {
    if (scale_ == 0) scale_ = number(static_cast<double>(s_.scale));
    return step(GraphWork::multiply, scores, scale_, scores_);
  }

  /// Scores of keys that a query does not see become -infinity.
  Id masked(Id scores) {
    if (!s_.causal) return scores;
    Id row = index(GraphWork::row_index, scores), column = index(GraphWork::column_index, scores);
    if (s_.first_query > 0)
      row = step(GraphWork::add, row, number(static_cast<double>(s_.first_query), GraphType::int32), scores_,
                 GraphType::int32, GraphType::int32);
    scores = kept(scores, GraphWork::at_least, row, column);
    if (s_.window == 0) return scores;
    row = index(GraphWork::row_index, scores), column = index(GraphWork::column_index, scores);
    const Id ahead = number(static_cast<double>(s_.window - s_.first_query));
    return kept(scores, GraphWork::above, step(GraphWork::add, column, ahead, scores_), row);
  }
  Id index(GraphWork which, Id of) { return step(which, of, 0, scores_, GraphType::int32); }
  Id kept(Id scores, GraphWork where, Id a, Id b) {
    const Id seen = step(where, a, b, scores_, GraphType::boolean, GraphType::boolean);
    const Id result = step(GraphWork::select, scores, number(-std::numeric_limits<double>::infinity()), scores_);
    graph_.steps.back().condition = seen;
    return result;
  }

  /// d [keys, columns] = x^T [keys, queries] y, of each head of keys the sum over those of queries.
  void product_of_turned(Id x, Id y, GraphArray d, std::int64_t heads, std::int64_t columns) {
    const Id turned = step(GraphWork::transpose, x, 0, {s_.batch, s_.heads, s_.keys, s_.queries}, type_);
    tensor(turned).strides = dense(scores_);
    swap_rows_and_columns(tensor(turned).strides);
    const Four extents = {s_.batch, heads, s_.keys, columns};
    if (heads == s_.heads) return add(GraphWork::product, turned, y, given(d, extents));
    const Id all = step(GraphWork::product, turned, y, {s_.batch, s_.heads, s_.keys, columns}, type_);
    add(GraphWork::sum, all, 0, given(d, extents));
  }

  AttentionGraphSpec s_;
  GraphType type_;
  Four scores_, rows_;
  AttentionGraph graph_;
  Id next_ = 100, scale_ = 0;
};

}  // namespace

const GraphTensor& AttentionGraph::tensor(std::int64_t id) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [id](const auto& t) { return t.id == id; });
  assert(found != tensors.end() && "a step's tensor is one of the graph's");
  return *found;
}

AttentionGraph attention_graph(const AttentionGraphSpec& spec) {
  Builder builder(spec);
  return spec.backward ? builder.backward() : builder.forward();
}

}  // namespace shardwright::cuda
