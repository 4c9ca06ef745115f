#pragma once

#include <array>
#include <boost/container/small_vector.hpp>
#include <cstdint>
#include <vector>

#include "hardware/quantities.h"

namespace shardwright {

/// What of a GPU a piece of work holds while it runs, a bit each.
enum class Stream : std::uint8_t { compute, node_links, network, copy };
inline constexpr int kStreams = 4;
using StreamSet = std::uint8_t;
constexpr StreamSet bit(Stream s) { return static_cast<StreamSet>(1u << static_cast<int>(s)); }

/// A kernel or a collective of one rank.
struct Piece {
  StreamSet streams = bit(Stream::compute);  ///< a communication that compute waits for holds the compute stream, too
  Seconds alone;                             ///< with the GPU to itself
  double multiprocessors = 0;  ///< share of them that it takes from others (a communication's kernel), or, of what
                               ///< computes, the share of its time in which it needs them all
  double memory = 0;           ///< share of the memory bandwidth that it uses when alone
  boost::container::small_vector<int, 4> after;  ///< earlier pieces whose results it reads
  int kind = 0;  ///< of communications, below kPieceKinds: what their time is summed up under
};
inline constexpr int kPieceKinds = 5;

struct Span {
  Seconds start, end;
};

struct Timeline {
  Seconds total;
  std::array<Seconds, kStreams> busy = {};        ///< time in which some piece held the stream
  Seconds computing;                              ///< time in which some piece held the compute stream alone
  std::array<Seconds, kPieceKinds> moving = {};   ///< time in which communications of a kind were under way
  std::array<Seconds, kPieceKinds> exposed = {};  ///< of that, while nothing computed: total = computing + all exposed
  std::vector<Span> spans;                        ///< by piece
};

/// Plays pieces on the streams. A piece starts when all it reads is there and its streams are free; among those that
/// could, the first in the list goes first. Pieces that run at once slow each other:
///   what computes runs at 1 - need x (multiprocessors that communications hold), need from 0 (waits for memory) to 1
///   where the shares of the memory bandwidth add up to more than 1, each piece gets its part of it
/// Precondition: `after` points backwards.
Timeline play_streams(const std::vector<Piece>& pieces);

}  // namespace shardwright
