#include "planner/timeline.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace shardwright {
namespace {

class Player {
 public:
  explicit Player(const std::vector<Piece>& pieces)
      : pieces_(pieces), waits_(pieces.size()), readers_(pieces.size()), left_(pieces.size()) {
    timeline_.spans.resize(pieces.size());
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      left_[i] = pieces[i].alone.value;
      waits_[i] = static_cast<int>(pieces[i].after.size());
      for (int before : pieces[i].after) {
        assert(before >= 0 && static_cast<std::size_t>(before) < i && "pieces read what is made before them");
        readers_[static_cast<std::size_t>(before)].push_back(i);
      }
      if (waits_[i] == 0) ready_.push_back(i);
    }
  }

  Timeline run() {
    start_what_can();
    while (!running_.empty()) {
      step();
      start_what_can();
    }
    assert(done_ == pieces_.size());
    timeline_.total = {now_};
    return std::move(timeline_);
  }

 private:
  void start_what_can() {
    for (std::size_t k = 0; k < ready_.size();) {
      const std::size_t i = ready_[k];
      if (pieces_[i].streams & held_) {
        ++k;
        continue;
      }
      held_ = static_cast<StreamSet>(held_ | pieces_[i].streams);
      timeline_.spans[i].start = {now_};
      running_.push_back(i);
      ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(k));
    }
  }

  /// How fast a running piece gets on beside the others.
  double speed(std::size_t i) const {
    double memory = 0, taken = 0;
    for (std::size_t j : running_) {
      memory += pieces_[j].memory;
      if (j != i && !computes(j)) taken += pieces_[j].multiprocessors;
    }
    double rate = computes(i) ? 1 - pieces_[i].multiprocessors * std::min(taken, 0.9) : 1;
    if (memory > 1 && pieces_[i].memory > 0) rate = std::min(rate, 1 / memory);
    return rate;
  }
  bool computes(std::size_t i) const { return pieces_[i].streams == bit(Stream::compute); }

  /// Up to the next end of a piece.
  void step() {
    double next = std::numeric_limits<double>::infinity();
    std::array<double, kStreams> speeds = {};  // no two running pieces share a stream
    for (std::size_t k = 0; k < running_.size(); ++k) {
      speeds[k] = speed(running_[k]);
      next = std::min(next, left_[running_[k]] / speeds[k]);
    }
    now_ += next;
    for (int s = 0; s < kStreams; ++s)
      if (held_ >> s & 1) timeline_.busy[static_cast<std::size_t>(s)] += Seconds{next};
    std::size_t kept = 0;
    for (std::size_t k = 0; k < running_.size(); ++k) {
      const std::size_t i = running_[k];
      const double due = left_[i] / speeds[k];
      left_[i] -= next * speeds[k];
      if (due <= next * (1 + 1e-12))
        finish(i);
      else
        running_[kept++] = i;
    }
    running_.resize(kept);
  }
  void finish(std::size_t i) {
    ++done_;
    held_ = static_cast<StreamSet>(held_ & ~pieces_[i].streams);
    timeline_.spans[i].end = {now_};
    for (std::size_t reader : readers_[i])
      if (--waits_[reader] == 0) ready_.insert(std::upper_bound(ready_.begin(), ready_.end(), reader), reader);
  }

  const std::vector<Piece>& pieces_;
  std::vector<int> waits_;                         // by piece: results it still waits for
  std::vector<std::vector<std::size_t>> readers_;  // by piece
  std::vector<double> left_;                       // by piece: seconds alone
  std::vector<std::size_t> ready_, running_;       // ready: in the order of the list
  Timeline timeline_;
  StreamSet held_ = 0;
  double now_ = 0;
  std::size_t done_ = 0;
};

}  // namespace

Timeline play_streams(const std::vector<Piece>& pieces) { return Player(pieces).run(); }

}  // namespace shardwright
