#include "planner/pipeline/timeline.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace shardwright {
namespace {

class Player {
 public:
  explicit Player(const std::vector<Piece>& pieces)
      : pieces_(pieces), waits_(pieces.size()), first_reader_(pieces.size() + 1), left_(pieces.size()) {
    timeline_.spans.resize(pieces.size());
    for (const Piece& p : pieces)
      for (int before : p.after) ++first_reader_[static_cast<std::size_t>(before) + 1];
    for (std::size_t i = 1; i <= pieces.size(); ++i) first_reader_[i] += first_reader_[i - 1];
    readers_.resize(static_cast<std::size_t>(first_reader_.back()));
    std::vector<int> next(first_reader_.begin(), first_reader_.end() - 1);
    for (int i = 0; i < size(); ++i) {
      const Piece& p = piece(i);
      left_[static_cast<std::size_t>(i)] = p.alone.value;
      waits_[static_cast<std::size_t>(i)] = static_cast<int>(p.after.size());
      for (int before : p.after) {
        assert(before >= 0 && before < i && "pieces read what is made before them");
        readers_[static_cast<std::size_t>(next[static_cast<std::size_t>(before)]++)] = i;
      }
      if (p.after.empty()) ready_.push_back(i);
    }
  }

  Timeline run() {
    start_what_can();
    while (!running_.empty()) {
      step();
      start_what_can();
    }
    assert(done_ == size());
    timeline_.total = {now_};
    return std::move(timeline_);
  }

 private:
  struct Running {
    int piece;
    double speed;
  };

  int size() const { return static_cast<int>(pieces_.size()); }
  const Piece& piece(int i) const { return pieces_[static_cast<std::size_t>(i)]; }
  static bool computes(const Piece& p) { return p.streams == bit(Stream::compute); }

  void start_what_can() {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < ready_.size(); ++k) {
      const int i = ready_[k];
      if (piece(i).streams & held_) {
        ready_[kept++] = i;
        continue;
      }
      held_ = static_cast<StreamSet>(held_ | piece(i).streams);
      timeline_.spans[static_cast<std::size_t>(i)].start = {now_};
      running_.push_back({i, 1});
    }
    ready_.resize(kept);
  }

  /// How fast each running piece gets on beside the others.
  void set_speeds() {
    double memory = 0, taken = 0;
    for (const Running& r : running_) {
      memory += piece(r.piece).memory;
      if (!computes(piece(r.piece))) taken += piece(r.piece).multiprocessors;
    }
    for (Running& r : running_) {
      const Piece& p = piece(r.piece);
      r.speed = computes(p) ? 1 - p.multiprocessors * std::min(taken, 0.9) : 1;
      if (memory > 1 && p.memory > 0) r.speed = std::min(r.speed, 1 / memory);
    }
  }

  /// Up to the next end of a piece.
  void step() {
    set_speeds();
    double next = std::numeric_limits<double>::infinity();
    for (const Running& r : running_) next = std::min(next, left_[static_cast<std::size_t>(r.piece)] / r.speed);
    account({next});
    now_ += next;
    std::size_t kept = 0;
    for (const Running& r : running_) {
      double& left = left_[static_cast<std::size_t>(r.piece)];
      const bool ends = left / r.speed <= next * (1 + 1e-12);
      left -= next * r.speed;
      if (ends)
        finish(r.piece);
      else
        running_[kept++] = r;
    }
    running_.resize(kept);
  }
  void account(Seconds length) {
    bool computing = false;
    int communications = 0;
    std::array<int, kPieceKinds> of_kind = {};
    for (const Running& r : running_) {
      const Piece& p = piece(r.piece);
      computing = computing || computes(p);
      if (computes(p)) continue;
      ++communications;
      ++of_kind[static_cast<std::size_t>(p.kind)];
    }
    for (std::size_t s = 0; s < kStreams; ++s)
      if (held_ >> s & 1) timeline_.busy[s] += length;
    if (computing) timeline_.computing += length;
    for (std::size_t k = 0; communications > 0 && k < kPieceKinds; ++k) {
      if (of_kind[k] == 0) continue;
      timeline_.moving[k] += length;
      if (!computing) timeline_.exposed[k] += static_cast<double>(of_kind[k]) / communications * length;
    }
  }
  void finish(int i) {
    ++done_;
    held_ = static_cast<StreamSet>(held_ & ~piece(i).streams);
    timeline_.spans[static_cast<std::size_t>(i)].end = {now_};
    for (int k = first_reader_[static_cast<std::size_t>(i)]; k < first_reader_[static_cast<std::size_t>(i) + 1]; ++k) {
      const int reader = readers_[static_cast<std::size_t>(k)];
      if (--waits_[static_cast<std::size_t>(reader)] == 0)
        ready_.insert(std::upper_bound(ready_.begin(), ready_.end(), reader), reader);
    }
  }

  const std::vector<Piece>& pieces_;
  std::vector<int> waits_;                   // by piece: results it still waits for
  std::vector<int> first_reader_, readers_;  // those that read piece i: readers_[first_reader_[i] .. [i + 1] - 1]
  std::vector<double> left_;                 // by piece: seconds alone
  std::vector<int> ready_;                   // in the order of the list
  std::vector<Running> running_;
  Timeline timeline_;
  StreamSet held_ = 0;
  double now_ = 0;
  int done_ = 0;
};

}  // namespace

Timeline play_streams(const std::vector<Piece>& pieces) { return Player(pieces).run(); }

}  // namespace shardwright
