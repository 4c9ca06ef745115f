// softmax(scale * sum over parts of q k^T) v and its gradients: by cuDNN where it has them (library_attention.h). Else
// forward in one kernel where it has the widths (fused_attention.h), or in pieces of queries whose scores are written
// to memory: products by cuBLASLt, a kernel for the rows between them. Gradients always so; the probabilities are made
// again from the log-sum-exp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "kernels/cuda/cuda_operators.h"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/operands.h"

namespace shardwright {

/// So many queries of so many sequences, and the keys that any of them sees. Its scores lie as [batch, heads, queries,
/// group, keys], so that where there is one query, or one head of keys, the group's heads are rows of one product.
struct CudaOperators::AttentionPiece {
  std::int64_t first_batch, batches, first_query, queries, first_key, keys;
  std::int64_t rows(const AttentionShape& s) const { return batches * s.heads * queries * s.group; }
};

namespace {

using cuda::Block;

/// Scores of one piece, in each of the buffers that there are.
constexpr std::int64_t kScoreBytes = 256 << 20;

/// Calls visit(piece) for pieces that together are all queries.
template <typename Piece, typename Visit>
void for_each_piece(const AttentionShape& s, Visit visit) {
  if (s.batch == 0 || s.queries == 0) return;
  const std::int64_t of_query = std::max<std::int64_t>(1, s.heads * s.group * s.keys * 4);
  const std::int64_t queries = std::clamp<std::int64_t>(kScoreBytes / of_query, 1, s.queries);
  const std::int64_t batches =
      queries < s.queries ? 1 : std::clamp<std::int64_t>(kScoreBytes / (of_query * s.queries), 1, s.batch);
  for (std::int64_t b = 0; b < s.batch; b += batches) {
    for (std::int64_t i = 0; i < s.queries; i += queries) {
      const std::int64_t count = std::min(queries, s.queries - i);
      // What a query sees begins and ends no earlier than what the one before it sees.
      const std::int64_t first = s.keys_seen(i).first, end = s.keys_seen(i + count - 1).end;
      visit(Piece{b, std::min(batches, s.batch - b), i, count, first, std::max<std::int64_t>(0, end - first)});
    }
  }
}

/// How far an array moves with batch, head of keys, query, head in the group, key and number.
struct Strides {
  std::int64_t batch, head, query, group, key, number;
};
Strides of_queries(const AttentionShape& s, std::int64_t width) {
  const std::int64_t of_query = s.heads * s.group * width;
  return {s.queries * of_query, s.group * width, of_query, width, 0, 1};
}
Strides of_keys(const AttentionShape& s, std::int64_t width, bool shared) {
  const std::int64_t of_key = shared ? width : s.heads * width;
  return {s.keys * of_key, shared ? 0 : width, 0, 0, of_key, 1};
}
template <typename Piece>
Strides of_scores(const AttentionShape& s, const Piece& p) {
  const std::int64_t of_query = s.group * p.keys;
  return {s.heads * p.queries * of_query, p.queries * of_query, of_query, p.keys, 1, 0};
}

template <typename Piece>
std::vector<Loop> loops_of(const AttentionShape& s, const Piece& p, std::int64_t width, const Strides& a,
                           const Strides& b, const Strides& out) {
  return {{p.batches, a.batch, b.batch, out.batch}, {s.heads, a.head, b.head, out.head},
          {p.queries, a.query, b.query, out.query}, {s.group, a.group, b.group, out.group},
          {p.keys, a.key, b.key, out.key},          {width, a.number, b.number, out.number}};
}

/// A piece's part of an array of queries, or of keys.
template <typename Array, typename Piece>
Array queries_in(const Array& all, const AttentionShape& s, const Piece& p, std::int64_t width) {
  const std::int64_t of_query = s.heads * s.group * width;
  const std::int64_t count = (p.batches - 1) * s.queries + p.queries;
  return all.part((p.first_batch * s.queries + p.first_query) * of_query, count * of_query);
}
template <typename Array, typename Piece>
Array keys_in(const Array& all, const AttentionShape& s, const Piece& p, std::int64_t width, bool shared) {
  const std::int64_t of_key = shared ? width : s.heads * width;
  const std::int64_t count = p.keys == 0 ? 0 : (p.batches - 1) * s.keys + p.keys;
  return all.part((p.first_batch * s.keys + p.first_key) * of_key, count * of_key);
}

float scale_of(const AttentionViews& in) {
  std::int64_t width = in.score_width;
  if (width == 0)
    for (const ScoreViews& part : in.parts) width += part.width;
  return 1.0f / std::sqrt(static_cast<float>(width));
}

/// Which query a row of a piece's scores is, where its statistics lie, and which keys of the piece it sees.
struct Rows {
  AttentionShape shape;
  std::int64_t first_batch, first_query, queries, first_key, keys;

  struct Row {
    std::int64_t place, head;  // place in [batch, queries, heads, group]; head in [heads, group]
    std::int64_t begin, end;
  };
  SHARDWRIGHT_DEVICE Row at(std::int64_t row) const {
    const std::int64_t g = row % shape.group, i = row / shape.group % queries, bh = row / shape.group / queries,
                       h = bh % shape.heads, b = bh / shape.heads;
    const std::int64_t query = first_query + i, heads = shape.heads * shape.group, head = h * shape.group + g;
    const KeyRange seen = shape.keys_seen(query);
    Row r = {((first_batch + b) * shape.queries + query) * heads + head, head, seen.first - first_key,
             seen.end - first_key};
    if (r.end < r.begin) r.end = r.begin;
    return r;
  }
};
template <typename Piece>
Rows rows_of(const AttentionShape& s, const Piece& p) {
  return {s, p.first_batch, p.first_query, p.queries, p.first_key, p.keys};
}

/// Probabilities of a row of scores. They may lie where the scores do.
template <typename Number>
struct Probabilities {
  const float* scores;
  Number* p;
  Rows rows;
  float scale;
  cuda::Numbers sinks;
  cuda::Places log_sum_exp;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t which) const {
    const Rows::Row row = rows.at(which);
    const float* from = scores + which * rows.keys;
    Number* to = p + which * rows.keys;
    float top = -INFINITY, total = 0;
    for (std::int64_t j = row.begin + block.thread(); j < row.end; j += block.threads())
      top = cuda::larger(top, scale * from[j]);
    top = block.largest(top);
    if (sinks.data) top = cuda::larger(top, sinks.at(row.head));
    for (std::int64_t j = row.begin + block.thread(); j < row.end; j += block.threads())
      total += expf(scale * from[j] - top);
    total = block.sum(total);
    if (sinks.data) total += expf(sinks.at(row.head) - top);
    const float inverse = 1.0f / total;
    for (std::int64_t j = block.thread(); j < rows.keys; j += block.threads()) {
      const bool seen = j >= row.begin && j < row.end;
      to[j] = cuda::from_float<Number>(seen ? expf(scale * from[j] - top) * inverse : 0.0f);
    }
    if (block.thread() == 0) log_sum_exp.set(row.place, top + logf(total));
  }
};

/// Of a row: the probabilities again, and the gradient of its scores, from that of the probabilities. Each may lie
/// where what it is made of does.
template <typename Number>
struct ScoreGradient {
  const float *scores, *d_probabilities;
  Number *p, *d_scores;
  const Number *o, *d_o;
  Rows rows;
  float scale;
  cuda::Numbers log_sum_exp;
  float* along;  // of each query and head: o times its gradient
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t which) const {
    const Rows::Row row = rows.at(which);
    const std::int64_t width = rows.shape.value_dim, at = which * rows.keys;
    float mean = 0;
    for (std::int64_t i = block.thread(); i < width; i += block.threads())
      mean += cuda::to_float(o[row.place * width + i]) * cuda::to_float(d_o[row.place * width + i]);
    mean = block.sum(mean);
    const float log_sum = log_sum_exp.at(row.place);
    for (std::int64_t j = block.thread(); j < rows.keys; j += block.threads()) {
      const bool seen = j >= row.begin && j < row.end;
      const float probability = seen ? expf(scale * scores[at + j] - log_sum) : 0.0f;
      const float d = seen ? scale * probability * (d_probabilities[at + j] - mean) : 0.0f;
      p[at + j] = cuda::from_float<Number>(probability);
      d_scores[at + j] = cuda::from_float<Number>(d);
    }
    if (block.thread() == 0) along[row.place] = mean;
  }
};

/// Of one head, over all queries.
struct SinkGradient {
  cuda::Numbers sinks, log_sum_exp;
  const float* along;
  std::int64_t queries, heads;
  cuda::Places d_sinks;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t head) const {
    float sum = 0;
    for (std::int64_t i = block.thread(); i < queries; i += block.threads()) {
      const std::int64_t at = i * heads + head;
      sum -= expf(sinks.at(head) - log_sum_exp.at(at)) * along[at];
    }
    sum = block.sum(sum);
    if (block.thread() == 0) d_sinks.set(head, sum);
  }
};

template <typename Number>
struct SoftmaxRow {
  const Number* x;
  Number* y;
  const KeyRange* seen;
  std::int64_t keys;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const Number* from = x + row * keys;
    Number* to = y + row * keys;
    const std::int64_t first = seen[row].first, end = seen[row].end < keys ? seen[row].end : keys;
    float top = -INFINITY, total = 0;
    for (std::int64_t i = first + block.thread(); i < end; i += block.threads())
      top = cuda::larger(top, cuda::to_float(from[i]));
    top = block.largest(top);
    for (std::int64_t i = first + block.thread(); i < end; i += block.threads())
      total += expf(cuda::to_float(from[i]) - top);
    const float inverse = 1.0f / block.sum(total);
    for (std::int64_t i = block.thread(); i < keys; i += block.threads())
      to[i] = cuda::from_float<Number>(i >= first && i < end ? expf(cuda::to_float(from[i]) - top) * inverse : 0.0f);
  }
};

template <typename Number>
struct SoftmaxGradientRow {
  const Number *y, *dy;
  Number* dx;
  std::int64_t keys;
  bool pieces;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    const Number *p = y + row * keys, *d = dy + row * keys;
    const float along = cuda::row_product(block, p, d, keys, pieces);
    cuda::for_pieces<Number>(block, keys, pieces, [&](auto count, std::int64_t i) {
      constexpr int kCount = decltype(count)::value;
      float a[kCount], b[kCount];
      cuda::load(p + i, a);
      cuda::load(d + i, b);
      for (int k = 0; k < kCount; ++k) a[k] *= b[k] - along;
      cuda::store(a, dx + row * keys + i);
    });
  }
};

/// A gradient that pieces add to: in fp32, where it lies already if that is its format.
class Added {
 public:
  Added(CudaOperators& operators, const View& to) : operators_(operators), to_(to), sum_(to) {
    if (to.empty()) return;
    if (to.element != Element::fp32) {
      memory_ = operators.allocate({to.elements * bytes_of(Element::fp32)});
      sum_ = {memory_.get(), to.elements, Element::fp32};
    }
    operators.fill(sum_, 0);
  }
  const View& sum() const { return sum_; }
  void finish() const {
    if (memory_) operators_.cast(sum_, to_);
  }

 private:
  CudaOperators& operators_;
  View to_, sum_;
  std::shared_ptr<void> memory_;
};

constexpr int kRowThreads = 256;

/// Among how many blocks the keys of each row are split, so that each multiprocessor has two; each has a tile.
int splits_of(cuda::Device& device, std::int64_t blocks, std::int64_t key_tiles) {
  constexpr std::int64_t kMost = 128;
  const std::int64_t wanted = 2 * device.properties().multiprocessors / std::max<std::int64_t>(blocks, 1);
  return static_cast<int>(std::clamp<std::int64_t>(std::min(wanted, key_tiles), 1, kMost));
}

template <typename Number, int score_width, int value_width>
void run_fused(cuda::Device& device, const AttentionViews& in, const AttentionShape& s, View o, View log_sum_exp) {
  using Kernel = cuda::FusedAttention<Number, score_width, value_width>;
  constexpr float kLog2E = 1.4426950408889634f;
  Kernel kernel = {{},
                   cuda::data_of<Number>(in.v),
                   in.shared_value,
                   s,
                   scale_of(in) * kLog2E,
                   in.sinks.empty() ? In{} : in.sinks,
                   cuda::data_of<Number>(o),
                   log_sum_exp};
  for (std::size_t i = 0; i < in.parts.size(); ++i) {
    const ScoreViews& part = in.parts[i];
    kernel.parts[i] = {cuda::data_of<Number>(part.q), cuda::data_of<Number>(part.k), static_cast<int>(part.width),
                       part.shared_key};
  }
  kernel.splits = splits_of(device, kernel.blocks(), (s.keys + Kernel::kKeys - 1) / Kernel::kKeys);
  if (kernel.splits == 1)
    return cuda::launch_blocks<Kernel::kThreads>(device, kernel.blocks(), Kernel::kThreads, Kernel::kShared, kernel);
  constexpr std::int64_t kFloat = 4;
  const std::int64_t rows = kernel.rows();
  const auto split_o = device.allocate({kernel.splits * rows * s.value_dim * kFloat});
  const auto split_sums = device.allocate({kernel.splits * rows * 2 * kFloat});
  kernel.split_o = static_cast<float*>(split_o.get()), kernel.split_sums = static_cast<float*>(split_sums.get());
  cuda::launch_blocks<Kernel::kThreads>(device, kernel.blocks(), Kernel::kThreads, Kernel::kShared, kernel);
  const cuda::CombineSplits<Number> combine = {kernel.split_o, kernel.split_sums, kernel.splits,
                                               rows,           s.heads * s.group, s.value_dim,
                                               kernel.sinks,   kernel.o,          kernel.log_sum_exp};
  cuda::launch_blocks(device, rows, cuda::threads_for(s.value_dim, kRowThreads), 0, combine);
}

/// Whether the fused kernel has it, for the widest of its widths; see there.
bool is_fused(const AttentionViews& in, const AttentionShape& s, const View& o) {
  const auto fits = [](const In& array) { return cuda::is_aligned(array.data, 16); };
  if (in.v.element != Element::bf16 && in.v.element != Element::fp16) return false;
  std::int64_t width = 0;
  for (const ScoreViews& part : in.parts) {
    if (part.width % 8 != 0 || !fits(part.q) || !fits(part.k)) return false;
    if (part.q.element != in.v.element || part.k.element != in.v.element) return false;
    width += part.width;
  }
  return in.parts.size() <= 2 && width <= 192 && s.value_dim <= 128 && s.value_dim % 8 == 0 && s.keys > 0 &&
         fits(in.v) && fits(o) && o.element == in.v.element;
}

/// As a library's engines know attention; none where they do not.
std::optional<cuda::AttentionGraphSpec> graph_spec(const AttentionViews& in, const AttentionShape& s,
                                                   const std::vector<In>& arrays, In log_sum_exp) {
  if (in.parts.size() != 1 || !in.sinks.empty() || s.chunk != 0) return std::nullopt;
  if (in.v.element != Element::bf16 && in.v.element != Element::fp16) return std::nullopt;
  if (log_sum_exp.element != Element::fp32) return std::nullopt;
  const ScoreViews& part = in.parts[0];
  if (s.value_dim % 8 != 0 || part.width % 8 != 0) return std::nullopt;
  for (const In& array : arrays)
    if (array.empty() || array.element != in.v.element || !cuda::is_aligned(array.data, 16)) return std::nullopt;
  if (s.keys_seen(s.queries - 1).first >= s.keys) return std::nullopt;  // a row of nothing
  cuda::AttentionGraphSpec g;
  g.type = in.v.element == Element::bf16 ? DataType::bf16 : DataType::fp16;
  g.batch = s.batch, g.queries = s.queries, g.keys = s.keys, g.heads = s.heads * s.group;
  g.key_heads = part.shared_key ? 1 : s.heads, g.value_heads = in.shared_value ? 1 : s.heads;
  g.width = part.width, g.value_width = s.value_dim;
  const KeyRange first = s.keys_seen(0), last = s.keys_seen(s.queries - 1);
  g.causal = first.end < s.keys || last.first > 0;
  if (g.causal) g.first_query = s.first_query, g.window = s.window;
  g.scale = scale_of(in);
  return g;
}

}  // namespace

bool CudaOperators::attention_by_library(const AttentionViews& in, const AttentionShape& s, In o, In log_sum_exp,
                                         In d_o, const AttentionGradientViews& d) {
  attention_by_ = "shardwright cuda";
  if (own_attention_ || in.parts.empty()) return false;
  const bool backward = !d_o.empty();
  std::vector<In> arrays = {in.parts[0].q, in.parts[0].k, in.v, o};
  if (backward) {
    if (d.q.empty() || d.k.empty()) return false;
    arrays.insert(arrays.end(), {d_o, In(d.q[0]), In(d.k[0]), In(d.v)});
  }
  std::optional<cuda::AttentionGraphSpec> spec = graph_spec(in, s, arrays, log_sum_exp);
  if (!spec) return false;
  spec->backward = backward;
  if (const std::string missing = library_attention_.unsupported(*spec); !missing.empty()) {
    attention_by_ += ", since " + missing;
    return false;
  }
  using cuda::GraphArray;
  constexpr GraphArray kOrder[] = {GraphArray::q,   GraphArray::k,   GraphArray::v,   GraphArray::o,
                                   GraphArray::d_o, GraphArray::d_q, GraphArray::d_k, GraphArray::d_v};
  cuda::GraphArrays given = {{GraphArray::log_sum_exp, log_sum_exp.data}};
  for (std::size_t i = 0; i < arrays.size(); ++i) given.emplace_back(kOrder[i], arrays[i].data);
  library_attention_.run(*spec, given);
  attention_by_ = library_attention_.version();
  return true;
}

void CudaOperators::softmax(In x, std::int64_t keys, std::span<const KeyRange> seen, View y) {
  if (seen.empty() || keys == 0) return;
  const Bytes size = {static_cast<std::int64_t>(seen.size_bytes())};
  const auto ranges = device_.allocate(size);
  device_.upload(seen.data(), ranges.get(), size);
  cuda::visit_formats({x, y}, [&](auto number) {
    using Number = decltype(number);
    const SoftmaxRow<Number> kernel = {cuda::data_of<Number>(x), cuda::data_of<Number>(y),
                                       static_cast<const KeyRange*>(ranges.get()), keys};
    cuda::launch_blocks(device_, static_cast<std::int64_t>(seen.size()), cuda::threads_for(keys, kRowThreads), 0,
                        kernel);
  });
}

void CudaOperators::softmax_gradient(In y, In dy, std::int64_t keys, View dx) {
  if (y.empty()) return;
  cuda::visit_formats({y, dy, dx}, [&](auto number) {
    using Number = decltype(number);
    const bool pieces = cuda::in_pieces<Number>(keys, {y.data, dy.data, dx.data});
    const SoftmaxGradientRow<Number> kernel = {cuda::data_of<Number>(y), cuda::data_of<Number>(dy),
                                               cuda::data_of<Number>(dx), keys, pieces};
    cuda::launch_blocks(device_, y.elements / keys, cuda::threads_for_row<Number>(keys, pieces), 0, kernel);
  });
}

void CudaOperators::make_scores(const AttentionViews& in, const AttentionShape& s, const AttentionPiece& p,
                                View scores) {
  bool accumulate = false;
  for (const ScoreViews& part : in.parts) {
    contract(
        queries_in(part.q, s, p, part.width), keys_in(part.k, s, p, part.width, part.shared_key), scores,
        loops_of(s, p, part.width, of_queries(s, part.width), of_keys(s, part.width, part.shared_key), of_scores(s, p)),
        accumulate);
    accumulate = true;
  }
}

void CudaOperators::attention(const AttentionViews& in, const AttentionShape& s, View o, View log_sum_exp) {
  if (attention_by_library(in, s, o, log_sum_exp, {}, {})) return;
  if (is_fused(in, s, o)) {
    std::int64_t width = 0;
    for (const ScoreViews& part : in.parts) width += part.width;
    const auto run = [&](auto number) {
      using Number = decltype(number);
      if (width <= 64 && s.value_dim <= 64) return run_fused<Number, 64, 64>(device_, in, s, o, log_sum_exp);
      if (width <= 128) return run_fused<Number, 128, 128>(device_, in, s, o, log_sum_exp);
      run_fused<Number, 192, 128>(device_, in, s, o, log_sum_exp);
    };
    return in.v.element == Element::bf16 ? run(cuda::Bfloat{}) : run(cuda::Half{});
  }
  for_each_piece<AttentionPiece>(s, [&](const AttentionPiece& p) {
    const std::int64_t rows = p.rows(s), count = rows * p.keys;
    const auto memory = allocate({count * 4});
    const View scores = {memory.get(), count, Element::fp32};
    make_scores(in, s, p, scores);
    cuda::visit_formats({in.v, o}, [&](auto number) {
      using Number = decltype(number);
      const bool in_place = in.v.element == Element::fp32;
      const auto narrow = in_place ? nullptr : allocate({count * static_cast<std::int64_t>(sizeof(Number))});
      const View probabilities = {in_place ? scores.data : narrow.get(), count, in.v.element};
      const Probabilities<Number> kernel = {static_cast<const float*>(scores.data),
                                            static_cast<Number*>(probabilities.data),
                                            rows_of(s, p),
                                            scale_of(in),
                                            in.sinks.empty() ? In{} : in.sinks,
                                            log_sum_exp};
      cuda::launch_blocks(device_, rows, cuda::threads_for(p.keys, kRowThreads), 0, kernel);
      contract(probabilities, keys_in(in.v, s, p, s.value_dim, in.shared_value), queries_in(o, s, p, s.value_dim),
               loops_of(s, p, s.value_dim, of_scores(s, p), of_keys(s, s.value_dim, in.shared_value),
                        of_queries(s, s.value_dim)),
               false);
    });
  });
}

void CudaOperators::attention_gradient(const AttentionViews& in, In o, In log_sum_exp, In d_o, const AttentionShape& s,
                                       const AttentionGradientViews& d) {
  if (attention_by_library(in, s, o, log_sum_exp, d_o, d)) return;
  const auto along = allocate({s.batch * s.queries * s.heads * s.group * 4});
  const Added d_v(*this, d.v);
  std::vector<Added> d_k;
  for (const View& view : d.k) d_k.emplace_back(*this, view);

  for_each_piece<AttentionPiece>(s, [&](const AttentionPiece& p) {
    const std::int64_t rows = p.rows(s), count = rows * p.keys;
    const auto score_memory = allocate({count * 4}), d_memory = allocate({count * 4});
    const View scores = {score_memory.get(), count, Element::fp32}, dp = {d_memory.get(), count, Element::fp32};
    const Strides score = of_scores(s, p), value = of_keys(s, s.value_dim, in.shared_value),
                  output = of_queries(s, s.value_dim);
    const In d_out = queries_in(d_o, s, p, s.value_dim);
    make_scores(in, s, p, scores);
    contract(d_out, keys_in(in.v, s, p, s.value_dim, in.shared_value), dp,
             loops_of(s, p, s.value_dim, output, value, score), false);
    cuda::visit_formats({in.v, o, d_o}, [&](auto number) {
      using Number = decltype(number);
      const bool in_place = in.v.element == Element::fp32;
      const Bytes narrow = {in_place ? 0 : count * static_cast<std::int64_t>(sizeof(Number))};
      const auto p_memory = allocate(narrow), ds_memory = allocate(narrow);
      const View probabilities = {in_place ? scores.data : p_memory.get(), count, in.v.element};
      const View d_scores = {in_place ? dp.data : ds_memory.get(), count, in.v.element};
      const ScoreGradient<Number> kernel = {static_cast<const float*>(scores.data),
                                            static_cast<const float*>(dp.data),
                                            static_cast<Number*>(probabilities.data),
                                            static_cast<Number*>(d_scores.data),
                                            cuda::data_of<Number>(o),
                                            cuda::data_of<Number>(d_o),
                                            rows_of(s, p),
                                            scale_of(in),
                                            log_sum_exp,
                                            static_cast<float*>(along.get())};
      cuda::launch_blocks(device_, rows, cuda::threads_for(std::max(p.keys, s.value_dim), kRowThreads), 0, kernel);
      if (p.keys == 0) {
        for (std::size_t i = 0; i < in.parts.size(); ++i)
          if (!d.q[i].empty()) fill(queries_in(d.q[i], s, p, in.parts[i].width), 0);
        return;
      }
      if (!d.v.empty())
        contract(probabilities, d_out, keys_in(d_v.sum(), s, p, s.value_dim, in.shared_value),
                 loops_of(s, p, s.value_dim, score, output, value), true);
      for (std::size_t i = 0; i < in.parts.size(); ++i) {
        const ScoreViews& part = in.parts[i];
        const Strides query = of_queries(s, part.width), key = of_keys(s, part.width, part.shared_key);
        if (!d.q[i].empty())
          contract(d_scores, keys_in(part.k, s, p, part.width, part.shared_key), queries_in(d.q[i], s, p, part.width),
                   loops_of(s, p, part.width, score, key, query), false);
        if (!d.k[i].empty())
          contract(d_scores, queries_in(part.q, s, p, part.width),
                   keys_in(d_k[i].sum(), s, p, part.width, part.shared_key),
                   loops_of(s, p, part.width, score, query, key), true);
      }
    });
  });
  d_v.finish();
  for (const Added& sum : d_k) sum.finish();
  if (d.sinks.empty()) return;
  const SinkGradient kernel = {
      in.sinks, log_sum_exp, static_cast<const float*>(along.get()), s.batch * s.queries, s.heads * s.group, d.sinks};
  cuda::launch_blocks(device_, s.heads * s.group, cuda::threads_for(s.batch * s.queries, 512), 0, kernel);
}

}  // namespace shardwright
