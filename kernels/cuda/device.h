#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "hardware/quantities.h"

struct CUstream_st;  // *cudaStream_t: so that headers need no CUDA
struct CUevent_st;   // *cudaEvent_t

namespace shardwright::cuda {

struct DeviceProperties {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;
  std::int64_t multiprocessors = 1;
  Bytes shared_per_block;  // at most, when asked for
  Bytes memory;
};

/// One GPU's memory, and one stream: all work is done in the order in which it was given. Belongs to one thread, on
/// which its GPU is the current one. Everything throws std::runtime_error where CUDA fails, naming call and error.
class Device {
 public:
  explicit Device(int index = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Aligned to 256 bytes. What is freed is kept for the next of its size and used again in the stream's order: who
  /// uses it on another stream waits for that before freeing. May outlive the device. Throws std::bad_alloc.
  std::shared_ptr<void> allocate(Bytes size);
  /// One buffer for partial results and such, overwritten by whoever asks next. Grows; null for no bytes.
  void* scratch(Bytes size);

  void upload(const void* host, void* to, Bytes size);      // waits
  void download(const void* from, void* host, Bytes size);  // waits
  void copy(const void* from, void* to, Bytes size);
  void clear(void* to, Bytes size);  // all bits 0
  void synchronize();

  CUstream_st* stream() const;
  const DeviceProperties& properties() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Begin and end of what is timed on a device's stream.
class Events {
 public:
  Events();
  ~Events();
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  void begin(const Device& device);
  void end(const Device& device);
  /// From the one to the other, by the GPU's clock. Waits.
  Seconds between() const;

 private:
  CUevent_st *begin_ = nullptr, *end_ = nullptr;
};

}  // namespace shardwright::cuda
