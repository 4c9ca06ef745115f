#include "kernels/cuda/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cassert>
#include <deque>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cuda/check.h"

namespace shardwright::cuda {
namespace {

void check_nccl(ncclResult_t status, const char* call, int rank, const char* file, int line) {
  if (status == ncclSuccess) return;
  throw std::runtime_error(failure(call, ncclGetErrorString(status), ncclGetLastError(nullptr), file, line) +
                           " on rank " + std::to_string(rank));
}
/// In a member function of what has a rank().
#define SHARDWRIGHT_NCCL(call) check_nccl(call, #call, rank(), __FILE__, __LINE__)

ncclDataType_t type_of(Element element) {
  switch (element) {
    case Element::fp64:
      return ncclFloat64;
    case Element::fp32:
      return ncclFloat32;
    case Element::fp16:
      return ncclFloat16;
    case Element::bf16:
      return ncclBfloat16;
    case Element::byte:
      return ncclUint8;
    case Element::int64:
      return ncclInt64;
  }
  return ncclUint8;
}

ncclRedOp_t operation(Reduction reduction) { return reduction == Reduction::sum ? ncclSum : ncclMax; }

std::size_t count_of(std::int64_t elements) { return static_cast<std::size_t>(elements); }

/// Whether these numbers lie in a GPU's memory. Where there are none, NCCL has nothing to do, and the host neither.
bool on_gpu(const void* data) {
  if (!data) return true;
  cudaPointerAttributes attributes = {};
  SHARDWRIGHT_CUDA(cudaPointerGetAttributes(&attributes, data));
  return attributes.type == cudaMemoryTypeDevice;
}

/// Waits for what was enqueued; not where a rank failed, since what waits for the others may never end.
void end(cudaStream_t stream) {
  if (std::uncaught_exceptions() == 0) static_cast<void>(cudaStreamSynchronize(stream));
}

class Event {
 public:
  Event() { SHARDWRIGHT_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
  /// What is enqueued on `later` from now on waits for what was enqueued on `earlier` until now.
  void order(cudaStream_t earlier, cudaStream_t later) {
    SHARDWRIGHT_CUDA(cudaEventRecord(event_, earlier));
    SHARDWRIGHT_CUDA(cudaStreamWaitEvent(later, event_, 0));
  }
  void record(cudaStream_t stream) { SHARDWRIGHT_CUDA(cudaEventRecord(event_, stream)); }
  void hold(cudaStream_t stream) { SHARDWRIGHT_CUDA(cudaStreamWaitEvent(stream, event_, 0)); }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A communicator of NCCL; collective over the ranks of `host`.
class Joined {
 public:
  explicit Joined(Communicator& host) : rank_(host.rank()) {
    ncclUniqueId id = {};
    if (host.rank() == 0) SHARDWRIGHT_NCCL(ncclGetUniqueId(&id));
    host.broadcast({&id, static_cast<std::int64_t>(sizeof id), Element::byte}, 0);
    SHARDWRIGHT_NCCL(ncclCommInitRank(&comm_, host.size(), id, host.rank()));
  }
  Joined(const Joined&) = delete;
  Joined& operator=(const Joined&) = delete;
  /// What was enqueued is done, or nobody waits for it.
  ~Joined() { static_cast<void>(ncclCommAbort(comm_)); }
  int rank() const { return rank_; }
  ncclComm_t get() const { return comm_; }

 private:
  int rank_;
  ncclComm_t comm_ = nullptr;
};

/// What a message is, told by `host` before it is taken: its communicator's number, its tag and its elements.
struct Announcement {
  std::int64_t communicator = 0, tag = 0, elements = 0, element = 0;
};
constexpr int kAnnounced = 31'000;  // the tag of what is told

/// Messages of all communicators that come of one: there are as many lanes as ranks' numbers have bits, twice.
class Lanes {
 public:
  Lanes(Device& device, Communicator& host) : device_(device), host_(host) {
    for (int bit = 1; bit < host.size(); bit *= 2)
      for (int of_sender = 0; of_sender < 2; ++of_sender) lanes_.push_back(std::make_unique<Lane>(host));
  }
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;
  int rank() const { return host_.rank(); }

  /// Done when the returned event is.
  std::unique_ptr<Event> send(In data, int to, Announcement what) {
    host_.send({&what, 4, Element::int64}, to, kAnnounced)->wait();
    Lane& lane = lane_between(rank(), to);
    Event ready;
    ready.order(device_.stream(), lane.stream);
    SHARDWRIGHT_NCCL(
        ncclSend(data.data, count_of(data.elements), type_of(data.element), to, lane.joined.get(), lane.stream));
    auto sent = std::make_unique<Event>();
    sent->record(lane.stream);
    return sent;
  }

  /// What the device's stream does from now on finds the message in `to`.
  void receive(View to, int from, const Announcement& wanted) {
    auto& early = early_[{from, wanted.communicator, wanted.tag}];
    if (!early.empty()) {
      device_.copy(early.front().get(), to.data, to.size());
      early.pop_front();
      return;
    }
    // In the order in which they were sent: what is asked for later is put aside.
    while (true) {
      Announcement what;
      host_.receive({&what, 4, Element::int64}, from, kAnnounced)->wait();
      if (what.communicator == wanted.communicator && what.tag == wanted.tag) {
        if (what.elements != wanted.elements || what.element != wanted.element)
          throw std::runtime_error("a message of " + std::to_string(what.elements) + " numbers came where " +
                                   std::to_string(wanted.elements) + " were expected");
        take(to, from);
        return;
      }
      const auto element = static_cast<Element>(what.element);
      auto aside = device_.allocate({what.elements * bytes_of(element)});
      take({aside.get(), what.elements, element}, from);
      early_[{from, what.communicator, what.tag}].push_back(std::move(aside));
    }
  }

 private:
  struct Lane {
    explicit Lane(Communicator& host) : joined(host) {
      SHARDWRIGHT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;
    ~Lane() {
      end(stream);
      static_cast<void>(cudaStreamDestroy(stream));
    }
    Joined joined;
    cudaStream_t stream = nullptr;
  };

  Lane& lane_between(int from, int to) { return *lanes_[static_cast<std::size_t>(lane_of_message(from, to))]; }
  void take(View to, int from) {
    Lane& lane = lane_between(from, rank());
    Event event;
    event.order(device_.stream(), lane.stream);
    SHARDWRIGHT_NCCL(
        ncclRecv(to.data, count_of(to.elements), type_of(to.element), from, lane.joined.get(), lane.stream));
    event.order(lane.stream, device_.stream());
  }

  Device& device_;
  Communicator& host_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::map<std::tuple<int, std::int64_t, std::int64_t>, std::deque<std::shared_ptr<void>>> early_;
};

class NcclCommunicator final : public Communicator {
 public:
  /// `world`: the places of these ranks in `lanes`; `number`: the same on all of them, another for each communicator.
  /// `owned`: `host`, where nobody else has it.
  NcclCommunicator(Device& device, Communicator& host, std::unique_ptr<Communicator> owned,
                   std::shared_ptr<Lanes> lanes, std::vector<int> world, std::int64_t number)
      : owned_(std::move(owned)),
        device_(device),
        host_(host),
        lanes_(std::move(lanes)),
        world_(std::move(world)),
        number_(number) {
    if (size() > 1) joined_ = std::make_unique<Joined>(host);
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  ~NcclCommunicator() override { end(stream()); }

  std::string name() const override { return "nccl"; }
  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }

  void all_reduce(View data, Reduction reduction) override {
    if (!on_gpu(data.data)) return host_.all_reduce(data, reduction);
    if (alone()) return;
    SHARDWRIGHT_NCCL(ncclAllReduce(data.data, data.data, count_of(data.elements), type_of(data.element),
                                   operation(reduction), comm(), stream()));
  }
  void all_gather(In part, View all) override {
    if (!on_gpu(all.data)) return host_.all_gather(part, all);
    if (alone()) return copy(part, all);
    SHARDWRIGHT_NCCL(
        ncclAllGather(part.data, all.data, count_of(part.elements), type_of(part.element), comm(), stream()));
  }
  void reduce_scatter(In all, View part, Reduction reduction) override {
    if (!on_gpu(all.data)) return host_.reduce_scatter(all, part, reduction);
    if (alone()) return copy(all, part);
    SHARDWRIGHT_NCCL(ncclReduceScatter(all.data, part.data, count_of(part.elements), type_of(part.element),
                                       operation(reduction), comm(), stream()));
  }
  void all_to_all(In from, std::span<const std::int64_t> send, View to,
                  std::span<const std::int64_t> receive) override {
    if (!on_gpu(from.data) || !on_gpu(to.data)) return host_.all_to_all(from, send, to, receive);
    if (alone()) return copy(from, to);
    const ncclDataType_t type = type_of(to.element);
    SHARDWRIGHT_NCCL(ncclGroupStart());
    std::int64_t out = 0, in = 0;
    for (int r = 0; r < size(); ++r) {
      const std::int64_t sends = send[count_of(r)], receives = receive[count_of(r)];
      if (sends > 0) SHARDWRIGHT_NCCL(ncclSend(from.part(out, sends).data, count_of(sends), type, r, comm(), stream()));
      if (receives > 0)
        SHARDWRIGHT_NCCL(ncclRecv(to.part(in, receives).data, count_of(receives), type, r, comm(), stream()));
      out += sends, in += receives;
    }
    SHARDWRIGHT_NCCL(ncclGroupEnd());
  }
  void broadcast(View data, int root) override {
    if (!on_gpu(data.data)) return host_.broadcast(data, root);
    if (alone()) return;
    SHARDWRIGHT_NCCL(
        ncclBroadcast(data.data, data.data, count_of(data.elements), type_of(data.element), root, comm(), stream()));
  }
  void barrier() override {
    device_.synchronize();
    host_.barrier();
  }

  std::unique_ptr<Request> send(In data, int to, int tag) override {
    if (!on_gpu(data.data)) return host_.send(data, to, tag);
    auto sent = lanes_->send(data, world_[count_of(to)], announcement(data, tag));
    return std::make_unique<Sent>(device_, std::move(sent));
  }
  std::unique_ptr<Request> receive(View data, int from, int tag) override {
    if (!on_gpu(data.data)) return host_.receive(data, from, tag);
    return std::make_unique<Receipt>(*lanes_, data, world_[count_of(from)], announcement(data, tag));
  }

  std::unique_ptr<Communicator> split(int colour) override;

 private:
  struct Sent final : Request {
    Sent(Device& of, std::unique_ptr<Event> event) : device(of), sent(std::move(event)) {}
    void wait() override { sent->hold(device.stream()); }
    Device& device;
    std::unique_ptr<Event> sent;
  };
  struct Receipt final : Request {
    Receipt(Lanes& by, View data, int rank, const Announcement& what) : lanes(by), to(data), from(rank), wanted(what) {}
    void wait() override { lanes.receive(to, from, wanted); }
    Lanes& lanes;
    View to;
    int from;
    Announcement wanted;
  };

  bool alone() const { return size() == 1; }
  ncclComm_t comm() const { return joined_->get(); }
  cudaStream_t stream() const { return device_.stream(); }
  void copy(In from, View to) {
    if (from.data != to.data) device_.copy(from.data, to.data, from.size());
  }
  Announcement announcement(const In& data, int tag) const {
    return {number_, tag, data.elements, static_cast<std::int64_t>(data.element)};
  }

  std::unique_ptr<Communicator> owned_;
  Device& device_;
  Communicator& host_;
  std::shared_ptr<Lanes> lanes_;
  std::vector<int> world_;
  std::int64_t number_;
  std::int64_t splits_ = 0;
  std::unique_ptr<Joined> joined_;  // null of one rank
};

std::unique_ptr<Communicator> NcclCommunicator::split(int colour) {
  std::unique_ptr<Communicator> host = host_.split(colour);
  // Which of the world's ranks they are, and a number that none of their other communicators has: all agree on how
  // often each was split before.
  std::int64_t own = world_[count_of(rank())];
  std::vector<std::int64_t> ranks(count_of(host->size()));
  host->all_gather({&own, 1, Element::int64}, {ranks.data(), host->size(), Element::int64});
  constexpr std::int64_t kMostSplits = 1 << 12;
  const std::int64_t number = number_ * kMostSplits + ++splits_;
  assert(splits_ < kMostSplits && "a communicator is split a few times");
  Communicator& by = *host;
  return std::make_unique<NcclCommunicator>(device_, by, std::move(host), lanes_,
                                            std::vector<int>(ranks.begin(), ranks.end()), number);
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Device& device, Communicator& host) {
  std::vector<int> world(count_of(host.size()));
  for (int r = 0; r < host.size(); ++r) world[count_of(r)] = r;
  return std::make_unique<NcclCommunicator>(device, host, nullptr, std::make_shared<Lanes>(device, host),
                                            std::move(world), 1);
}

}  // namespace shardwright::cuda
