#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/operands.h"
#include "kernels/shapes.h"

namespace shardwright::cuda {

/// Attention in one kernel: a running maximum and sum (FlashAttention-2, arXiv 2307.08691), products by the tensor
/// cores' mma.m16n8k16, which every GPU from sm_80 on has. A block does 64 rows: queries of one head of keys, with all
/// heads of its group, against 64 keys at a time; a warp 16 of the rows. Scores and probabilities stay in registers.
///
/// Where there are too few rows for all multiprocessors (decode), the keys of each are split among `splits` blocks, as
/// Flash-Decoding has it (Dao and others, 2023, pytorch.org/blog/flash-decoding): each leaves its share of o, not
/// divided yet, its largest score and its sum, which CombineSplits joins.
///
/// Of 16-bit formats, one or two parts of scores that are `score_width` wide together at most, and values of at most
/// `value_width`; all widths are multiples of 8, all arrays begin at a multiple of 16 bytes.
template <typename Number, int score_width, int value_width>
struct FusedAttention {
  static constexpr int kThreads = 128, kRows = 64, kKeys = 64;
  static constexpr int kPad = 8;  // numbers behind each row in shared memory: a warp's accesses meet no bank twice
  static constexpr int kScoreStride = score_width + kPad, kValueStride = value_width + kPad;
  static constexpr std::int64_t kShared = sizeof(Number) * (kKeys * kScoreStride + kKeys * kValueStride);

  struct Part {
    const Number *q = nullptr, *k = nullptr;
    int width = 0;
    bool shared_key = false;
  };
  Part parts[2];
  const Number* v;
  bool shared_value;
  AttentionShape s;
  float scale;  // of scores, times log2(e): exponentials are powers of 2
  Numbers sinks;
  Number* o;
  Places log_sum_exp;
  int splits = 1;
  float* split_o = nullptr;     // [splits][rows][value_dim]
  float* split_sums = nullptr;  // [splits][rows] of the largest, in powers of 2, and the sum

  std::int64_t rows() const { return s.batch * s.queries * s.heads * s.group; }
  SHARDWRIGHT_BOTH std::int64_t row_blocks() const { return (s.queries * s.group + kRows - 1) / kRows; }
  std::int64_t blocks() const { return s.batch * s.heads * row_blocks() * splits; }

  /// Where a row's query lies in [batch, queries, heads, group].
  SHARDWRIGHT_DEVICE std::int64_t place(std::int64_t batch, std::int64_t head, std::int64_t row) const {
    return ((batch * s.queries + row / s.group) * s.heads + head) * s.group + row % s.group;
  }

  /// `rows` rows of a tile, from a source for each; what there is not is 0.
  template <typename Source>
  SHARDWRIGHT_DEVICE static void fill_tile(const Block& block, Number* tile, int stride, int begin, int width,
                                           const Source& source) {
    constexpr int kPieces = 8;
    struct alignas(16) Piece {
      Number numbers[kPieces];
    };
    const int in_row = width / kPieces;
    for (int i = block.thread(); i < kRows * in_row; i += kThreads) {
      const int row = i / in_row, column = i % in_row * kPieces;
      const Number* from = source(row);
      Piece piece = {};
      if (from) piece = *reinterpret_cast<const Piece*>(from + column);
      *reinterpret_cast<Piece*>(tile + row * stride + begin + column) = piece;
    }
  }
  SHARDWRIGHT_DEVICE static const Number* nothing(int) { return nullptr; }

  SHARDWRIGHT_DEVICE static std::uint32_t pair_at(const Number* at) {
    return *reinterpret_cast<const std::uint32_t*>(at);
  }
  SHARDWRIGHT_DEVICE static std::uint32_t pair_of(float low, float high) {
    return from_float<Number>(low).bits | static_cast<std::uint32_t>(from_float<Number>(high).bits) << 16;
  }

  /// A split's share of the keys, whole tiles of them.
  SHARDWRIGHT_DEVICE KeyRange share_of(KeyRange all, std::int64_t split) const {
    const std::int64_t tiles = (all.end - all.first + kKeys - 1) / kKeys, each = (tiles + splits - 1) / splits * kKeys;
    const std::int64_t first = all.first + split * each;
    return {first, first + each < all.end ? first + each : all.end};
  }

  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t index) const {
    const std::int64_t split = index % splits, which = index / splits;
    Number* const keys = reinterpret_cast<Number*>(block.shared());
    Number* const values = keys + kKeys * kScoreStride;
    const std::int64_t tiles = row_blocks(), all_rows = s.queries * s.group;
    // Causal: the last rows see most; they are begun first.
    const std::int64_t first_row = (tiles - 1 - which % tiles) * kRows, bh = which / tiles;
    const std::int64_t head = bh % s.heads, batch = bh / s.heads;
    const std::int64_t last_row = first_row + kRows < all_rows ? first_row + kRows - 1 : all_rows - 1;
    const int warp = block.thread() / kWarp, lane = block.thread() % kWarp, right = lane % 4 * 2;

    // The queries, as the warps' left matrices: by way of the keys' shared memory.
    const int wide = parts[0].width + parts[1].width;
    int begin = 0;
    for (const Part& part : parts) {
      fill_tile(block, keys, kScoreStride, begin, part.width, [&](int row) -> const Number* {
        return first_row + row <= last_row ? part.q + place(batch, head, first_row + row) * part.width : nullptr;
      });
      begin += part.width;
    }
    fill_tile(block, keys, kScoreStride, wide, score_width - wide, nothing);
    fill_tile(block, values, kValueStride, static_cast<int>(s.value_dim), value_width - static_cast<int>(s.value_dim),
              nothing);
    block.sync();
    Pairs q[score_width / 16];
    SHARDWRIGHT_UNROLL
    for (int i = 0; i < score_width / 16; ++i) {
      const Number* at = keys + (warp * 16 + lane / 4) * kScoreStride + i * 16 + right;
      q[i] = {{pair_at(at), pair_at(at + 8 * kScoreStride), pair_at(at + 8), pair_at(at + 8 * kScoreStride + 8)}};
    }

    // Of the thread's two rows: what they see, the largest score so far, the sum of the thread's own share.
    std::int64_t rows[2];
    KeyRange seen[2];
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    SHARDWRIGHT_UNROLL
    for (int i = 0; i < 2; ++i) {
      rows[i] = first_row + warp * 16 + lane / 4 + 8 * i;
      seen[i] = rows[i] <= last_row ? s.keys_seen(rows[i] / s.group) : KeyRange{0, 0};
    }
    float out[value_width / 8][4] = {};

    // Of all rows: what a query sees begins and ends no earlier than what the one before it sees.
    const KeyRange share =
        share_of({s.keys_seen(first_row / s.group).first, s.keys_seen(last_row / s.group).end}, split);
    const std::int64_t end = share.end;
    for (std::int64_t at = share.first; at < end; at += kKeys) {
      block.sync();  // all have read what lay here
      begin = 0;
      for (const Part& part : parts) {
        fill_tile(block, keys, kScoreStride, begin, part.width, [&](int row) -> const Number* {
          const std::int64_t key = batch * s.keys + at + row;
          return at + row < end ? part.k + (part.shared_key ? key : key * s.heads + head) * part.width : nullptr;
        });
        begin += part.width;
      }
      fill_tile(block, values, kValueStride, 0, static_cast<int>(s.value_dim), [&](int row) -> const Number* {
        const std::int64_t key = batch * s.keys + at + row;
        return at + row < end ? v + (shared_value ? key : key * s.heads + head) * s.value_dim : nullptr;
      });
      block.sync();

      float score[kKeys / 8][4] = {};
      SHARDWRIGHT_UNROLL
      for (int k = 0; k < score_width / 16; ++k) {
        SHARDWRIGHT_UNROLL
        for (int n = 0; n < kKeys / 8; ++n) {
          const Number* pair = keys + (n * 8 + lane / 4) * kScoreStride + k * 16 + right;
          block.multiply(Tile<Number>{}, q[k], pair_at(pair), pair_at(pair + 8), score[n]);
        }
      }
      SHARDWRIGHT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const std::int64_t from = seen[i].first - at - right, to = seen[i].end - at - right;
        float most = -INFINITY;
        SHARDWRIGHT_UNROLL
        for (int n = 0; n < kKeys / 8; ++n) {
          SHARDWRIGHT_UNROLL
          for (int j = 0; j < 2; ++j) {
            float& x = score[n][2 * i + j];
            x = n * 8 + j >= from && n * 8 + j < to ? x * scale : -INFINITY;
            most = larger(most, x);
          }
        }
        most = larger(top[i], block.largest_of_four(most));
        // A row that has seen nothing yet: any finite number does.
        const float base = most == -INFINITY ? 0.0f : most, shrink = exp2f(top[i] - base);
        top[i] = most;
        total[i] *= shrink;
        SHARDWRIGHT_UNROLL
        for (int n = 0; n < kKeys / 8; ++n) SHARDWRIGHT_UNROLL
        for (int j = 0; j < 2; ++j) total[i] += score[n][2 * i + j] = exp2f(score[n][2 * i + j] - base);
        SHARDWRIGHT_UNROLL
        for (int n = 0; n < value_width / 8; ++n) out[n][2 * i] *= shrink, out[n][2 * i + 1] *= shrink;
      }
      SHARDWRIGHT_UNROLL
      for (int k = 0; k < kKeys / 16; ++k) {
        const float(&low)[4] = score[2 * k], (&high)[4] = score[2 * k + 1];
        const Pairs p = {
            {pair_of(low[0], low[1]), pair_of(low[2], low[3]), pair_of(high[0], high[1]), pair_of(high[2], high[3])}};
        SHARDWRIGHT_UNROLL
        for (int n = 0; n < value_width / 8; ++n) {
          std::uint32_t b0, b1;
          block.load_columns(values + k * 16 * kValueStride + n * 8, kValueStride, b0, b1);
          block.multiply(Tile<Number>{}, p, b0, b1, out[n]);
        }
      }
    }

    SHARDWRIGHT_UNROLL
    for (int i = 0; i < 2; ++i) {
      constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.69314718055994531f;
      float sum = block.sum_of_four(total[i]), shrink = 1;
      if (rows[i] > last_row) continue;
      const std::int64_t to = place(batch, head, rows[i]);
      if (splits > 1) {
        const std::int64_t part = split * s.batch * s.queries * s.heads * s.group + to;
        SHARDWRIGHT_UNROLL
        for (int n = 0; n < value_width / 8; ++n) {
          float* const at = split_o + part * s.value_dim + n * 8 + right;
          if (n * 8 < s.value_dim) at[0] = out[n][2 * i], at[1] = out[n][2 * i + 1];
        }
        if (lane % 4 == 0) split_sums[2 * part] = top[i], split_sums[2 * part + 1] = sum;
        continue;
      }
      if (sinks.data) {
        const float sink = kLog2E * sinks.at(head * s.group + rows[i] % s.group), most = larger(top[i], sink);
        shrink = exp2f(top[i] - most);
        sum = sum * shrink + exp2f(sink - most);
        top[i] = most;
      }
      const float factor = sum == 0.0f ? 0.0f : shrink / sum;
      SHARDWRIGHT_UNROLL
      for (int n = 0; n < value_width / 8; ++n)
        if (n * 8 < s.value_dim)
          *reinterpret_cast<std::uint32_t*>(o + to * s.value_dim + n * 8 + right) =
              pair_of(out[n][2 * i] * factor, out[n][2 * i + 1] * factor);
      if (lane % 4 == 0) log_sum_exp.set(to, top[i] * kLn2 + logf(sum));
    }
  }
};

/// Of one row: what FusedAttention's splits left, as one.
template <typename Number>
struct CombineSplits {
  const float *split_o, *split_sums;
  std::int64_t splits, rows, heads, value_dim;  // heads: of queries
  Numbers sinks;
  Number* o;
  Places log_sum_exp;
  SHARDWRIGHT_DEVICE void operator()(const Block& block, std::int64_t row) const {
    constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.69314718055994531f;
    const float sink = sinks.data ? kLog2E * sinks.at(row % heads) : -INFINITY;
    float top = sink;
    for (std::int64_t p = 0; p < splits; ++p) top = larger(top, split_sums[2 * (p * rows + row)]);
    const float base = top == -INFINITY ? 0.0f : top;
    float sum = exp2f(sink - base);
    for (std::int64_t p = 0; p < splits; ++p) {
      const float* const part = split_sums + 2 * (p * rows + row);
      sum += part[1] * exp2f(part[0] - base);
    }
    for (std::int64_t i = block.thread(); i < value_dim; i += block.threads()) {
      float x = 0;
      for (std::int64_t p = 0; p < splits; ++p)
        x += split_o[(p * rows + row) * value_dim + i] * exp2f(split_sums[2 * (p * rows + row)] - base);
      o[row * value_dim + i] = from_float<Number>(sum == 0.0f ? 0.0f : x / sum);
    }
    if (block.thread() == 0) log_sum_exp.set(row, top * kLn2 + logf(sum));
  }
};

}  // namespace shardwright::cuda
