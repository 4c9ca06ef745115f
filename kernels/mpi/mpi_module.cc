// Ranks as processes, over whatever MPI this was built with. A module of its own, loaded by kernels/mpi/mpi_ranks.cc
// when ranks are wanted, so that the program needs no MPI to start.
#include <mpi.h>

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/communicator.h"

namespace shardwright {
namespace {

[[noreturn]] void fail(const char* call, int code, const char* file, int line) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0, rank = -1;
  MPI_Error_string(code, text, &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw std::runtime_error(std::string(call) + " failed on rank " + std::to_string(rank) + ": " + text + " (" + file +
                           ":" + std::to_string(line) + ")");
}
#define SHARDWRIGHT_MPI(call)                                               \
  do {                                                                      \
    const int mpi_code = call;                                              \
    if (mpi_code != MPI_SUCCESS) fail(#call, mpi_code, __FILE__, __LINE__); \
  } while (false)

MPI_Datatype type_of(Element element) {
  switch (element) {
    case Element::fp64:
      return MPI_DOUBLE;
    case Element::fp32:
      return MPI_FLOAT;
    case Element::int64:
      return MPI_INT64_T;
    case Element::byte:
      return MPI_UNSIGNED_CHAR;
    case Element::fp16:
    case Element::bf16:
      return MPI_UINT16_T;  // moved, never added
  }
  return MPI_DATATYPE_NULL;
}

/// MPI 3 counts with int.
int count_of(std::int64_t elements) {
  if (elements > INT_MAX) throw std::runtime_error("MPI moves at most 2147483647 elements in one call");
  return static_cast<int>(elements);
}

MPI_Op operation(Reduction reduction, Element element) {
  if (element == Element::fp16 || element == Element::bf16)
    throw std::runtime_error("MPI adds no 16-bit floating-point numbers");
  return reduction == Reduction::sum ? MPI_SUM : MPI_MAX;
}

class MpiRequest final : public Communicator::Request {
 public:
  MPI_Request request = MPI_REQUEST_NULL;
  void wait() override { SHARDWRIGHT_MPI(MPI_Wait(&request, MPI_STATUS_IGNORE)); }
  bool done() override {
    int flag = 0;
    SHARDWRIGHT_MPI(MPI_Test(&request, &flag, MPI_STATUS_IGNORE));
    return flag != 0;
  }
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, bool world) : comm_(comm), world_(world) {
    SHARDWRIGHT_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    SHARDWRIGHT_MPI(MPI_Comm_rank(comm_, &rank_));
    SHARDWRIGHT_MPI(MPI_Comm_size(comm_, &size_));
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  ~MpiCommunicator() override {
    if (world_)
      MPI_Finalize();
    else
      MPI_Comm_free(&comm_);
  }

  std::string name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(View data, Reduction reduction) override {
    SHARDWRIGHT_MPI(MPI_Allreduce(MPI_IN_PLACE, data.data, count_of(data.elements), type_of(data.element),
                                  operation(reduction, data.element), comm_));
  }
  void all_gather(In part, View all) override {
    const MPI_Datatype type = type_of(part.element);
    SHARDWRIGHT_MPI(
        MPI_Allgather(part.data, count_of(part.elements), type, all.data, count_of(part.elements), type, comm_));
  }
  void reduce_scatter(In all, View part, Reduction reduction) override {
    SHARDWRIGHT_MPI(MPI_Reduce_scatter_block(all.data, part.data, count_of(part.elements), type_of(part.element),
                                             operation(reduction, part.element), comm_));
  }
  void all_to_all(In from, std::span<const std::int64_t> send, View to,
                  std::span<const std::int64_t> receive) override {
    const Parts out = parts_of(send), in = parts_of(receive);
    const MPI_Datatype type = type_of(to.element);
    SHARDWRIGHT_MPI(MPI_Alltoallv(from.data, out.counts.data(), out.firsts.data(), type, to.data, in.counts.data(),
                                  in.firsts.data(), type, comm_));
  }
  void broadcast(View data, int root) override {
    SHARDWRIGHT_MPI(MPI_Bcast(data.data, count_of(data.elements), type_of(data.element), root, comm_));
  }
  void barrier() override { SHARDWRIGHT_MPI(MPI_Barrier(comm_)); }

  std::unique_ptr<Request> send(In data, int to, int tag) override {
    auto request = std::make_unique<MpiRequest>();
    SHARDWRIGHT_MPI(
        MPI_Isend(data.data, count_of(data.elements), type_of(data.element), to, tag, comm_, &request->request));
    return request;
  }
  std::unique_ptr<Request> receive(View data, int from, int tag) override {
    auto request = std::make_unique<MpiRequest>();
    SHARDWRIGHT_MPI(
        MPI_Irecv(data.data, count_of(data.elements), type_of(data.element), from, tag, comm_, &request->request));
    return request;
  }
  std::unique_ptr<Communicator> split(int colour) override {
    MPI_Comm part = MPI_COMM_NULL;
    SHARDWRIGHT_MPI(MPI_Comm_split(comm_, colour, rank_, &part));
    return std::make_unique<MpiCommunicator>(part, false);
  }

 private:
  struct Parts {
    std::vector<int> counts, firsts;
  };
  static Parts parts_of(std::span<const std::int64_t> elements) {
    Parts parts;
    std::int64_t first = 0;
    for (const std::int64_t n : elements) {
      parts.counts.push_back(count_of(n));
      parts.firsts.push_back(count_of(first));
      first += n;
    }
    return parts;
  }

  MPI_Comm comm_;
  bool world_;
  int rank_ = 0, size_ = 1;
};

}  // namespace
}  // namespace shardwright

/// Starts MPI; the communicator of all ranks ends it when it is deleted.
extern "C" shardwright::Communicator* shardwright_mpi_world() {
  int given = 0;
  // Ranks that compute in threads call MPI from one of them.
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS)
    throw std::runtime_error("MPI_Init_thread failed");
  return new shardwright::MpiCommunicator(MPI_COMM_WORLD, true);
}

/// "Open MPI v4.1.4, ...", without starting it.
extern "C" const char* shardwright_mpi_version() {
  static char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  return text;
}

/// Ends all ranks, of which one failed.
extern "C" void shardwright_mpi_abort(int code) { MPI_Abort(MPI_COMM_WORLD, code); }
