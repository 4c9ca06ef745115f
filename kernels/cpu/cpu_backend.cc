#include "kernels/cpu/cpu_backend.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/cpu_operators.h"
#include "kernels/host/host_operators.h"
#include "kernels/memory_pass.h"
#include "kernels/reference/reference.h"
#include "kernels/reference/reference_operators.h"
#include "kernels/sampled_error.h"

namespace shardwright {
namespace {

using reference::Array;

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of fp32, relative

/// Memory that runs take turns over.
class Arena {
 public:
  /// Grows to hold `elements`, and twice the largest cache. What was handed out before is void.
  void hold(std::int64_t elements, std::int64_t at_least, bool random) {
    const auto wanted = static_cast<std::size_t>(std::max(elements, at_least));
    if (numbers_.size() >= wanted) return;
    const std::size_t before = numbers_.size();
    numbers_.resize(wanted);
    for (std::size_t i = before; random && i < wanted; ++i)  // uniform in [-1, 1)
      numbers_[i] = static_cast<float>(static_cast<double>(random_bits(1, i) >> 40) * 0x1p-23 - 1.0);
  }
  /// The next place for `elements`, on a cache line.
  float* next(std::int64_t elements) {
    constexpr std::int64_t kLine = 16;
    if (at_ + elements > static_cast<std::int64_t>(numbers_.size())) at_ = 0;
    float* place = numbers_.data() + at_;
    at_ += (elements + kLine - 1) / kLine * kLine;
    return place;
  }

 private:
  std::vector<float> numbers_;
  std::int64_t at_ = 0;
};

/// One kernel: how much it reads and writes, a run, and what one run of it is off by.
struct Work {
  std::int64_t in = 0, out = 0;  // elements
  std::function<void(const float* in, float* out)> run;
  std::function<double(float* in, float* out)> error;  // fills `in` itself where it needs to know it
};

class CpuKernel final : public PreparedKernel {
 public:
  CpuKernel(Work work, Arena& in, Arena& out) : work_(std::move(work)), in_(in), out_(out) {}
  void enqueue() override { work_.run(in_.next(work_.in), out_.next(work_.out)); }
  double max_relative_error() override { return work_.error(in_.next(work_.in), out_.next(work_.out)); }

 private:
  Work work_;
  Arena &in_, &out_;
};

In in_view(const float* data, std::int64_t elements) { return {data, elements, Element::fp32}; }
View out_view(float* data, std::int64_t elements) { return {data, elements, Element::fp32}; }

// ---- products ----

struct Operands {
  std::int64_t m, n, k;
  bool a_turned, b_turned;
  double a(const float* x, std::int64_t i, std::int64_t l) const { return a_turned ? x[l * m + i] : x[i * k + l]; }
  double b(const float* y, std::int64_t l, std::int64_t j) const { return b_turned ? y[j * k + l] : y[l * n + j]; }
};

/// Sampled elements of one product.
void compare(const Operands& o, const float* x, const float* y, const float* z, Array& got, Array& expected) {
  for (const std::int64_t i : sample(o.m)) {
    for (const std::int64_t j : sample(o.n)) {
      double sum = 0;
      for (std::int64_t l = 0; l < o.k; ++l) sum += o.a(x, i, l) * o.b(y, l, j);
      expected.push_back(sum);
      got.push_back(z[i * o.n + j]);
    }
  }
}

/// `batch` products; a weight's gradient (added to) multiplies by the transpose of A where the layout is not stated.
Work product(const GemmSpec& s, CpuOperators& operators) {
  const GemmLayout layout = s.layout != GemmLayout::unstated ? s.layout
                            : s.accumulate                   ? GemmLayout::tn
                                                             : GemmLayout::nn;
  const bool a_turned = layout == GemmLayout::tn || layout == GemmLayout::tt;
  const bool b_turned = layout == GemmLayout::nt || layout == GemmLayout::tt;
  const Operands o = {s.m, s.n, s.k, a_turned, b_turned};
  const std::int64_t a = s.batch * s.m * s.k, b = s.batch * s.k * s.n, c = s.batch * s.m * s.n;
  const auto run = [=, &operators](const float* in, float* out) {
    const auto labels = [](bool turned, int down, int right) {
      return turned ? std::vector<int>{0, right, down} : std::vector<int>{0, down, right};
    };
    const auto extents = [&s](bool turned, std::int64_t down, std::int64_t right) {
      return turned ? std::vector<std::int64_t>{s.batch, right, down} : std::vector<std::int64_t>{s.batch, down, right};
    };
    operators.contraction({in_view(in, a), labels(a_turned, 1, 2), extents(a_turned, s.m, s.k)},
                          {in_view(in + a, b), labels(b_turned, 2, 3), extents(b_turned, s.k, s.n)}, {0, 1, 3},
                          out_view(out, c), s.accumulate);
  };
  const auto error = [=](float* in, float* out) {
    std::fill_n(out, c, 0.0f);
    run(in, out);
    Array got, expected;
    for (const std::int64_t i : sample(s.batch))
      compare(o, in + i * s.m * s.k, in + a + i * s.k * s.n, out + i * s.m * s.n, got, expected);
    return off_by(got, expected);
  };
  return {a + b, c, run, error};
}

/// Added to: a weight's gradient, the sum over each group's rows.
Work grouped_product(const GroupedGemmSpec& s, CpuOperators& operators) {
  const std::int64_t a = s.groups * s.m_per_group * s.k, b = s.groups * s.k * s.n, c = s.groups * s.m_per_group * s.n;
  const std::vector<std::int64_t> rows(static_cast<std::size_t>(s.groups), s.accumulate ? s.k : s.m_per_group);
  const auto run = [=, &operators](const float* in, float* out) {
    if (s.accumulate)
      operators.grouped_contraction_gradient(in_view(in, a), in_view(in + a, b), rows, out_view(out, c), true);
    else
      operators.grouped_contraction(in_view(in, a), in_view(in + a, b), rows, false, out_view(out, c));
  };
  const auto error = [=](float* in, float* out) {
    std::fill_n(out, c, 0.0f);
    run(in, out);
    Array got, expected;
    for (const std::int64_t g : sample(s.groups))
      compare({s.m_per_group, s.n, s.k, s.accumulate, false}, in + g * s.m_per_group * s.k, in + a + g * s.k * s.n,
              out + g * s.m_per_group * s.n, got, expected);
    return off_by(got, expected);
  };
  return {a + b, c, run, error};
}

// ---- attention ----

Work attention_forward(const AttentionSpec& spec, CpuOperators& operators) {
  const AttentionPlaces p = places_of(spec, Element::fp32);
  const std::int64_t o = p.result_elements();
  const auto run = [p, o, &operators](const float* in, float* out) {
    operators.attention(p.inputs(in), p.shape, out_view(out, o), out_view(out + o, p.rows));
  };
  const auto error = [=](float* in, float* out) {
    run(in, out);
    return attention_error(p, in, out);
  };
  return {p.input_elements(), o + p.rows, run, error};
}

Work attention_backward(const AttentionSpec& spec, CpuOperators& operators) {
  const AttentionPlaces p = places_of(spec, Element::fp32);
  const std::int64_t o = p.result_elements(), inputs = p.input_elements(), made = p.gradient_elements();
  // Given: the inputs, o, its gradient and the log-sum-exp. They are random while it is timed: the time is the same.
  const auto run = [=, &operators](const float* in, float* out) {
    const float* at = in + inputs;
    operators.attention_gradient(p.inputs(in), in_view(at, o), in_view(at + 2 * o, p.rows), in_view(at + o, o), p.shape,
                                 p.gradients(out));
  };
  const auto error = [=, &operators](float* in, float* out) {
    float* at = in + inputs;
    const std::vector<float> before(at, at + 2 * o + p.rows);  // others' random numbers: put back
    std::vector<float> o_made(static_cast<std::size_t>(o)), lse(static_cast<std::size_t>(p.rows));
    operators.attention(p.inputs(in), p.shape, out_view(o_made.data(), o), out_view(lse.data(), p.rows));
    std::copy(o_made.begin(), o_made.end(), at);
    std::copy(lse.begin(), lse.end(), at + 2 * o);
    run(in, out);
    const double worst = attention_gradient_error(p, in, at, at + o, out);
    std::copy(before.begin(), before.end(), at);
    return worst;
  };
  return {inputs + 2 * o + p.rows, made, run, error};
}

// ---- memory ----

/// A pass as its operator is called, compared with the reference on its first numbers.
Work memory_pass(const MemorySpec& s, CpuOperators& operators) {
  const PassShape shape = pass_shape(s, bytes_of(Element::fp32));
  auto order = std::make_shared<std::vector<std::int64_t>>(static_cast<std::size_t>(shape.rows()));
  std::iota(order->begin(), order->end(), 0);
  std::shuffle(order->begin(), order->end(), std::mt19937_64(1));
  const auto ids = [](const std::vector<std::int64_t>& rows) {
    return In(rows.data(), static_cast<std::int64_t>(rows.size()), Element::int64);
  };
  const std::int64_t read = shape.in * shape.elements, written = shape.out * shape.elements;
  const auto run = [=, &operators](const float* in, float* out) {
    run_pass(s.pass, operators, shape, in_view(in, read), out_view(out, written), ids(*order));
  };
  const auto error = [=, &operators](float* in, float*) {
    constexpr std::int64_t kMost = 1 << 13;
    const std::int64_t largest = kMost * bytes_of(Element::fp32) * arrays_of(s.pass);
    const PassShape small = pass_shape({{std::min(s.moved.value, largest)}, s.pass}, bytes_of(Element::fp32));
    std::vector<std::int64_t> rows(static_cast<std::size_t>(small.rows()));
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int64_t>(rows.size() - 1 - i);
    constexpr float kBefore = 0.5f;
    const Array x(in, in + small.in * small.elements);
    Array expected(static_cast<std::size_t>(small.out * small.elements), kBefore);
    std::vector<float> made(expected.size(), kBefore);
    const auto plain = make_reference_operators();
    run_pass(s.pass, *plain, small, {x.data(), small.in * small.elements, Element::fp64},
             {expected.data(), small.out * small.elements, Element::fp64}, ids(rows));
    run_pass(s.pass, operators, small, in_view(in, small.in * small.elements),
             out_view(made.data(), small.out * small.elements), ids(rows));
    return off_by(Array(made.begin(), made.end()), expected);
  };
  return {read, written, run, error};
}

// ---- collectives ----

/// What rank `r` holds at element `i`: everyone knows what everyone has. Sums of few are exact.
float held_by(int r, std::int64_t i) { return static_cast<float>((r * 37 + i * 11) % 64); }

Work collective(const CollectiveSpec& s, Communicator& group) {
  const int n = group.size(), r = group.rank();
  const std::int64_t all = std::max<std::int64_t>(s.held.value / 4 / n * n, n), part = all / n;
  const std::vector<std::int64_t> parts(static_cast<std::size_t>(n), part);
  struct Sizes {
    std::int64_t in, out;
  };
  Sizes sizes = {all, all};
  std::function<void(const float*, float*)> run;
  std::function<double(std::int64_t)> expected;  // of element i of the result
  const auto total = [n](std::int64_t i) {
    double sum = 0;
    for (int q = 0; q < n; ++q) sum += held_by(q, i);
    return sum;
  };
  switch (s.kind) {
    case CollectiveKind::all_reduce:
      // In place, of what the run before left: numbers grow and end at infinity, which costs nothing more.
      sizes = {0, all};
      run = [&group, all](const float*, float* out) { group.all_reduce(out_view(out, all), Reduction::sum); };
      expected = total;
      break;
    case CollectiveKind::all_gather:
      sizes.in = part;
      run = [&group, all, part](const float* in, float* out) {
        group.all_gather(in_view(in, part), out_view(out, all));
      };
      expected = [part](std::int64_t i) { return held_by(static_cast<int>(i / part), i % part); };
      break;
    case CollectiveKind::reduce_scatter:
      sizes.out = part;
      run = [&group, all, part](const float* in, float* out) {
        group.reduce_scatter(in_view(in, all), out_view(out, part), Reduction::sum);
      };
      expected = [total, part, r](std::int64_t i) { return total(r * part + i); };
      break;
    case CollectiveKind::all_to_all:
      run = [&group, all, parts](const float* in, float* out) {
        group.all_to_all(in_view(in, all), parts, out_view(out, all), parts);
      };
      expected = [part, r](std::int64_t i) { return held_by(static_cast<int>(i / part), r * part + i % part); };
      break;
    case CollectiveKind::send_recv:
      run = [&group, all, n, r](const float* in, float* out) {
        const auto got = group.receive(out_view(out, all), (r + n - 1) % n, 0);
        const auto sent = group.send(in_view(in, all), (r + 1) % n, 0);
        got->wait();
        sent->wait();
      };
      expected = [n, r](std::int64_t i) { return held_by((r + n - 1) % n, i); };
      break;
  }
  const auto error = [=, &group](float* in, float* out) {
    const std::vector<float> before(in, in + sizes.in);
    float* given = sizes.in > 0 ? in : out;
    for (std::int64_t i = 0; i < (sizes.in > 0 ? sizes.in : all); ++i) given[i] = held_by(r, i);
    run(in, out);
    double worst = 0;
    for (std::int64_t i = 0; i < sizes.out; ++i) worst = worst_of({worst, std::abs(out[i] - expected(i)) / (64.0 * n)});
    std::copy(before.begin(), before.end(), in);
    // One rank's fault is everyone's.
    double shared = std::isnan(worst) ? std::numeric_limits<double>::infinity() : worst;  // a largest of NaN is open
    group.all_reduce({&shared, 1, Element::fp64}, Reduction::max);
    return shared;
  };
  return {sizes.in, sizes.out, run, error};
}

// ---- the backend ----

Seconds seconds_of(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return {static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec)};
}

bool is_fp32(const std::optional<StoredType>& type) { return !type || *type == StoredType::fp32; }

class CpuBackend final : public Backend {
 public:
  CpuBackend(Communicator& ranks, Bytes turns_over) : ranks_(ranks), turns_over_(turns_over) {}

  std::string name() const override { return "cpu"; }

  std::string library(KernelFamily family) const override {
    if (family == KernelFamily::collective) return ranks_.name();
    if (family == KernelFamily::memory) return "shardwright cpu";
    const std::string& openblas = cpu::openblas_version();
    return openblas.empty() ? "shardwright cpu" : openblas.substr(0, openblas.find(' ', openblas.find(' ') + 1));
  }

  std::string unsupported(const KernelSpec& spec) const override {
    return std::visit([this](const auto& s) { return lacks(s); }, spec);
  }

  double tolerance(const KernelSpec& spec) const override {
    double sum = 1;
    if (const auto* s = std::get_if<GemmSpec>(&spec)) sum = static_cast<double>(s->k);
    if (const auto* s = std::get_if<GroupedGemmSpec>(&spec)) sum = static_cast<double>(s->k);
    if (const auto* s = std::get_if<AttentionSpec>(&spec)) sum = static_cast<double>(s->key_length + s->head_dim);
    if (const auto* s = std::get_if<MemorySpec>(&spec))
      sum = static_cast<double>(pass_shape(*s, bytes_of(Element::fp32)).width);
    return 4 * kUnit * (8 + std::sqrt(sum));
  }

  std::unique_ptr<PreparedKernel> prepare(const KernelSpec& spec) override {
    Work work = std::visit([this](const auto& s) { return work_of(s); }, spec);
    const std::int64_t least = turns_over_.value / 4 / ranks_.size();
    in_.hold(work.in, least, true);
    out_.hold(work.out, least, false);
    return std::make_unique<CpuKernel>(std::move(work), in_, out_);
  }

  Timed time(PreparedKernel& kernel, int runs) override {
    const Seconds busy = seconds_of(CLOCK_THREAD_CPUTIME_ID), wall = seconds_of(CLOCK_MONOTONIC);
    for (int i = 0; i < runs; ++i) kernel.enqueue();
    const Seconds wall_end = seconds_of(CLOCK_MONOTONIC), busy_end = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    return {Seconds{(wall_end - wall).value / runs}, Seconds{(busy_end - busy).value / runs}};
  }

 private:
  static std::string only_fp32(bool is) { return is ? "" : "the cpu backend computes in fp32 alone"; }
  static std::string lacks(const GemmSpec& s) {
    if (std::max({s.m, s.n, s.k}) > std::numeric_limits<int>::max()) return "BLAS takes no size above 2147483647";
    return only_fp32(s.type == DataType::fp32 && is_fp32(s.weights) && is_fp32(s.result));
  }
  static std::string lacks(const GroupedGemmSpec& s) {
    if (std::max({s.m_per_group, s.n, s.k}) > std::numeric_limits<int>::max())
      return "BLAS takes no size above 2147483647";
    return only_fp32(s.type == DataType::fp32 && is_fp32(s.weights) && is_fp32(s.result));
  }
  static std::string lacks(const AttentionSpec& s) {
    if (s.type != DataType::fp32 || !is_fp32(s.kv_type)) return only_fp32(false);
    if (s.selected > 0) return "the cpu backend has no attention to selected keys";
    if (const std::string why = no_operators_for(s); !why.empty()) return why;
    if (s.backward && s.values_in_keys) return "the cpu backend has no gradient of values in keys";
    if (!s.causal && s.window > 0 && s.query_length > 1)
      return "the cpu backend has windows of causal attention and of single queries";
    return "";
  }
  static std::string lacks(const MemorySpec&) { return ""; }
  static std::string lacks(const MoeLayerSpec&) {
    return "the cpu backend runs layers of experts operator by operator";
  }
  static std::string lacks(const MlaModuleSpec&) {
    return "the cpu backend runs latent attention blocks operator by operator";
  }
  static std::string lacks(const MoeExchangeSpec&) { return "the cpu backend has no exchange of experts' rows"; }
  std::string lacks(const CollectiveSpec& s) const {
    if (!is_fp32(s.type)) return only_fp32(false);
    if (s.algorithm != CollectiveAlgorithm::nccl) return "the cpu backend has the communicator's own collectives alone";
    if (s.crossing != 1) return "the cpu backend has no all-to-all inside nodes";
    const auto& last = s.group.factors[std::max(s.group.count - 1, 0)];
    const std::int64_t run = s.group.count == 0 ? 1 : last.size * last.stride;
    if (ranks_.size() % run != 0)
      return "the group does not fit " + std::to_string(ranks_.size()) + (ranks_.size() == 1 ? " rank" : " ranks");
    return "";
  }

  Work work_of(const GemmSpec& s) { return product(s, operators_); }
  Work work_of(const GroupedGemmSpec& s) { return grouped_product(s, operators_); }
  Work work_of(const AttentionSpec& s) {
    return s.backward ? attention_backward(s, operators_) : attention_forward(s, operators_);
  }
  Work work_of(const MemorySpec& s) { return memory_pass(s, operators_); }
  Work work_of(const CollectiveSpec& s) { return collective(s, group_of(s.group)); }
  template <typename Spec>
  Work work_of(const Spec&) {
    throw std::invalid_argument("not supported");
  }

  /// Ranks whose coordinates along the group's runs differ are together.
  Communicator& group_of(const RankGroup& group) {
    for (auto& [known, communicator] : groups_)
      if (known == group) return *communicator;
    std::int64_t first = ranks_.rank();
    for (int i = 0; i < group.count; ++i)
      first -= ranks_.rank() / group.factors[i].stride % group.factors[i].size * group.factors[i].stride;
    groups_.emplace_back(group, ranks_.split(static_cast<int>(first)));
    return *groups_.back().second;
  }

  Communicator& ranks_;
  Bytes turns_over_;
  CpuOperators operators_;
  Arena in_, out_;
  std::vector<std::pair<RankGroup, std::unique_ptr<Communicator>>> groups_;
};

}  // namespace

Bytes twice_the_cache() {
  constexpr long kUnknown = 32 << 20;
  const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return {2 * (size > 0 ? size : kUnknown)};
}

std::unique_ptr<Backend> make_cpu_backend(Communicator& ranks, Bytes turns_over) {
  return std::make_unique<CpuBackend>(ranks, turns_over);
}

}  // namespace shardwright
