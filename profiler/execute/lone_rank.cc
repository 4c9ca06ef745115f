#include "profiler/execute/lone_rank.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace shardwright {
namespace {

class LoneCommunicator final : public Communicator {
 public:
  LoneCommunicator(std::int64_t rank, std::int64_t size, Operators& operators)
      : rank_(static_cast<int>(rank)), size_(static_cast<int>(size)), operators_(operators) {}

  std::string name() const override { return "none"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(View, Reduction) override {}
  void all_gather(In part, View all) override { repeat(part, all); }
  void reduce_scatter(In all, View part, Reduction) override {
    operators_.cast(all.part(rank_ * part.elements, part.elements), part);
  }
  void all_to_all(In from, std::span<const std::int64_t>, View to, std::span<const std::int64_t>) override {
    repeat(from, to);
  }
  void broadcast(View, int) override {}
  void barrier() override {}
  std::unique_ptr<Request> send(In, int, int) override { return std::make_unique<Done>(); }
  std::unique_ptr<Request> receive(View data, int, int) override {
    operators_.fill_normal(data, {{data.elements}, {0}, {data.elements}}, 1, 1);
    return std::make_unique<Done>();
  }
  std::unique_ptr<Communicator> split(int) override {
    throw std::logic_error("who the others are is not known to a rank that is alone");
  }

 private:
  struct Done final : Request {
    void wait() override {}
    bool done() override { return true; }
  };
  void repeat(In from, View to) {
    if (from.empty() && !to.empty()) return operators_.fill(to, 0);
    for (std::int64_t at = 0; at < to.elements; at += from.elements) {
      const std::int64_t count = std::min(from.elements, to.elements - at);
      operators_.cast(from.part(0, count), to.part(at, count));
    }
  }

  int rank_, size_;
  Operators& operators_;
};

}  // namespace

std::unique_ptr<Communicator> make_lone_communicator(std::int64_t rank, std::int64_t size, Operators& operators) {
  return std::make_unique<LoneCommunicator>(rank, size, operators);
}

DrawnExperts::DrawnExperts(const ExpertLoad& load, std::int64_t experts, std::int64_t chosen) : chosen_(chosen) {
  const double mean = static_cast<double>(chosen) / static_cast<double>(experts);
  double sum = 0;
  for (double relative : relative_loads(load, experts, chosen)) until_.push_back(sum += relative * mean);
}

void DrawnExperts::of_token(std::int64_t token, std::vector<std::int64_t>& experts) const {
  constexpr double kGolden = 0.6180339887498949;
  double whole = 0;
  const double first = std::modf(kGolden * static_cast<double>(token), &whole);
  experts.clear();
  std::int64_t least = 0;  // no chance is above 1, so all are different but for rounding
  const auto last = static_cast<std::int64_t>(until_.size()) - chosen_;
  for (std::int64_t i = 0; i < chosen_; ++i) {
    const double point = first + static_cast<double>(i);
    const auto found = std::upper_bound(until_.begin(), until_.end(), point) - until_.begin();
    const std::int64_t expert = std::clamp<std::int64_t>(found, least, last + i);
    experts.push_back(expert);
    least = expert + 1;
  }
}

}  // namespace shardwright
