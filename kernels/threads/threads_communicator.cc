#include "kernels/threads/threads_communicator.h"

#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <tuple>

#include "kernels/host/host_operators.h"

namespace shardwright {
namespace {

/// What all threads of a run share: whether one failed.
struct Run {
  std::mutex mutex;
  std::condition_variable changed;
  bool failed = false;
  std::exception_ptr first;
};

/// Thrown in the ranks that wait for one that failed; the run tells of that one.
struct AnotherRankFailed : std::runtime_error {
  AnotherRankFailed() : std::runtime_error("another rank failed") {}
};

using Message = std::vector<char>;

/// What the ranks of one communicator share, under the run's mutex.
struct Group {
  explicit Group(int ranks) : size(ranks), published(static_cast<std::size_t>(ranks)) {}
  const int size;
  int waiting = 0;
  std::int64_t rounds = 0;  // of the barrier
  struct Published {
    In in;
    std::span<const std::int64_t> counts;
    int colour = 0;
  };
  std::vector<Published> published;                               // by rank; read between two barriers
  std::map<std::tuple<int, int, int>, std::deque<Message>> mail;  // from, to, tag
  std::map<int, std::shared_ptr<Group>> parts;                    // by colour, while ranks split
};

template <typename Number>
void combine(Number* to, const Number* from, std::int64_t count, Reduction reduction) {
  if (reduction == Reduction::sum)
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<Number>(to[i] + from[i]);
  else
    for (std::int64_t i = 0; i < count; ++i)
      if (to[i] == to[i] && !(from[i] <= to[i])) to[i] = from[i];  // what is no number stays
}

class ThreadsCommunicator final : public Communicator {
 public:
  ThreadsCommunicator(std::shared_ptr<Run> run, std::shared_ptr<Group> group, int rank)
      : run_(std::move(run)), group_(std::move(group)), rank_(rank) {}

  std::string name() const override { return "threads"; }
  int rank() const override { return rank_; }
  int size() const override { return group_->size; }

  void all_reduce(View data, Reduction reduction) override {
    publish({data, {}, 0});
    std::vector<char> result;
    {
      const Leaving leaving(*this);
      result = reduced(0, data.elements, data.element, reduction);
    }
    copy(data.data, result.data(), result.size());
  }
  void all_gather(In part, View all) override {
    assert(all.elements == part.elements * size() && "a part a rank");
    publish({part, {}, 0});
    const Leaving leaving(*this);
    for (int r = 0; r < size(); ++r) {
      const In from = of(r).in;
      copy(all.part(r * from.elements, from.elements).data, from.data, static_cast<std::size_t>(from.size().value));
    }
  }
  void reduce_scatter(In all, View part, Reduction reduction) override {
    assert(all.elements == part.elements * size() && "a part a rank");
    publish({all, {}, 0});
    std::vector<char> result;
    {
      const Leaving leaving(*this);
      result = reduced(rank_ * part.elements, part.elements, part.element, reduction);
    }
    copy(part.data, result.data(), result.size());
  }
  void all_to_all(In from, std::span<const std::int64_t> send, View to,
                  std::span<const std::int64_t> receive) override {
    publish({from, send, 0});
    const Leaving leaving(*this);
    std::int64_t at = 0;
    for (int r = 0; r < size(); ++r) {
      const auto& other = of(r);
      std::int64_t first = 0;
      for (int before = 0; before < rank_; ++before) first += other.counts[static_cast<std::size_t>(before)];
      const std::int64_t count = receive[static_cast<std::size_t>(r)];
      assert(other.counts[static_cast<std::size_t>(rank_)] == count && "both sides know how much");
      const In piece = other.in.part(first, count);
      copy(to.part(at, count).data, piece.data, static_cast<std::size_t>(piece.size().value));
      at += count;
    }
  }
  void broadcast(View data, int root) override {
    publish({data, {}, 0});
    const Leaving leaving(*this);
    if (rank_ != root) copy(data.data, of(root).in.data, static_cast<std::size_t>(data.size().value));
  }

  void barrier() override {
    std::unique_lock lock(run_->mutex);
    // All ranks come through or none: one that failed while waiting is not counted on.
    if (run_->failed) throw AnotherRankFailed();
    const std::int64_t round = group_->rounds;
    if (arrived_last()) return;
    wait(lock, [&] { return group_->rounds != round; });
  }

  std::unique_ptr<Request> send(In data, int to, int tag) override {
    struct Sent final : Request {
      void wait() override {}
    };
    const char* first = static_cast<const char*>(data.data);
    Message message(first, first + data.size().value);
    const std::lock_guard lock(run_->mutex);
    group_->mail[{rank_, to, tag}].push_back(std::move(message));
    run_->changed.notify_all();
    return std::make_unique<Sent>();
  }
  std::unique_ptr<Request> receive(View data, int from, int tag) override {
    return std::make_unique<Receipt>(*this, data, std::tuple(from, rank_, tag));
  }

  std::unique_ptr<Communicator> split(int colour) override {
    publish({{}, {}, colour});
    int ranks = 0, own = 0;
    for (int r = 0; r < size(); ++r) {
      if (of(r).colour != colour) continue;
      if (r < rank_) ++own;
      ++ranks;
    }
    std::shared_ptr<Group> part;
    {
      const std::lock_guard lock(run_->mutex);
      auto& shared = group_->parts[colour];
      if (!shared) shared = std::make_shared<Group>(ranks);
      part = shared;
    }
    barrier();
    if (rank_ == 0) group_->parts.clear();
    barrier();
    return std::make_unique<ThreadsCommunicator>(run_, std::move(part), own);
  }

 private:
  /// Messages are taken in the order of wait(), which is that of sending where requests are waited for in their order.
  struct Receipt final : Request {
    Receipt(ThreadsCommunicator& c, View data, std::tuple<int, int, int> from) : of(c), to(data), key(from) {}
    void wait() override {
      std::unique_lock lock(of.run_->mutex);
      auto& queue = of.group_->mail[key];
      of.wait(lock, [&] { return !queue.empty(); });
      const Message message = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      if (static_cast<std::int64_t>(message.size()) != to.size().value)
        throw std::runtime_error("a message of " + std::to_string(message.size()) + " bytes came where " +
                                 std::to_string(to.size().value) + " were expected");
      copy(to.data, message.data(), message.size());
    }
    ThreadsCommunicator& of;
    View to;
    std::tuple<int, int, int> key;
  };

  static void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memmove(to, from, bytes);
  }
  /// Under the mutex.
  bool arrived_last() {
    if (++group_->waiting < group_->size) return false;
    group_->waiting = 0;
    ++group_->rounds;
    run_->changed.notify_all();
    return true;
  }
  /// Ends the reading of what others published, whatever happens: their buffers live until all have left. All that came
  /// through publish() leave, so nobody waits for one that failed.
  struct Leaving {
    explicit Leaving(ThreadsCommunicator& communicator) : of(communicator) {}
    Leaving(const Leaving&) = delete;
    ~Leaving() {
      std::unique_lock lock(of.run_->mutex);
      const std::int64_t round = of.group_->rounds;
      if (of.arrived_last()) return;
      of.run_->changed.wait(lock, [&] { return of.group_->rounds != round; });
    }
    ThreadsCommunicator& of;
  };
  template <typename Done>
  void wait(std::unique_lock<std::mutex>& lock, Done done) {
    run_->changed.wait(lock, [&] { return done() || run_->failed; });
    if (!done()) throw AnotherRankFailed();
  }
  void publish(Group::Published what) {
    group_->published[static_cast<std::size_t>(rank_)] = what;
    barrier();
  }
  const Group::Published& of(int rank) const { return group_->published[static_cast<std::size_t>(rank)]; }

  /// `count` elements of what was published, from `first` on, over all ranks in their order.
  std::vector<char> reduced(std::int64_t first, std::int64_t count, Element element, Reduction reduction) const {
    std::vector<char> result(static_cast<std::size_t>(count * bytes_of(element)));
    View to = {result.data(), count, element};
    for (int r = 0; r < size(); ++r) {
      const In from = of(r).in.part(first, count);
      if (r == 0) {
        copy(to.data, from.data, result.size());
        continue;
      }
      visit_numbers(to, [&](auto* sum) {
        combine(sum, static_cast<decltype(sum)>(const_cast<void*>(from.data)), count, reduction);
      });
    }
    return result;
  }

  std::shared_ptr<Run> run_;
  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

std::unique_ptr<Communicator> make_alone_communicator() {
  return std::make_unique<ThreadsCommunicator>(std::make_shared<Run>(), std::make_shared<Group>(1), 0);
}

void run_on_threads(int ranks, const std::function<void(Communicator&)>& work) {
  const auto shared = std::make_shared<Run>();
  Run& run = *shared;
  const auto all = std::make_shared<Group>(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        ThreadsCommunicator communicator(shared, all, rank);
        work(communicator);
      } catch (...) {
        const std::lock_guard lock(run.mutex);
        if (!run.failed) run.first = std::current_exception();
        run.failed = true;
        run.changed.notify_all();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (run.first) std::rethrow_exception(run.first);
}

}  // namespace shardwright
