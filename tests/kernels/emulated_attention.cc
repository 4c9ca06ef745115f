// What kernels/cuda asks of cuDNN, on the host: the graph's steps, one after the other, number by number. So it is
// known that the graph is attention, and that its arrays lie where ours do.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/library_attention.h"
#include "kernels/cuda/operands.h"

namespace shardwright::cuda {
namespace {

using Four = GraphTensor::Four;

Element element_of(GraphType type) {
  return type == GraphType::fp16 ? Element::fp16 : type == GraphType::bf16 ? Element::bf16 : Element::fp32;
}

float rounded(float x, GraphType type) {
  if (type == GraphType::fp16) return to_float(from_float<Half>(x));
  return type == GraphType::bf16 ? to_float(from_float<Bfloat>(x)) : x;
}

template <typename Visit>
void for_each_place(const Four& extents, Visit visit) {
  Four at;
  for (at[0] = 0; at[0] < extents[0]; ++at[0])
    for (at[1] = 0; at[1] < extents[1]; ++at[1])
      for (at[2] = 0; at[2] < extents[2]; ++at[2])
        for (at[3] = 0; at[3] < extents[3]; ++at[3]) visit(at);
}

/// A tensor's numbers, row-major whatever its strides are.
struct Array {
  Four extents;
  std::vector<float> numbers;

  explicit Array(const Four& e) : extents(e), numbers(static_cast<std::size_t>(e[0] * e[1] * e[2] * e[3])) {}
  float& at(const Four& i) {
    return numbers[static_cast<std::size_t>(((i[0] * extents[1] + i[1]) * extents[2] + i[2]) * extents[3] + i[3])];
  }
  /// Of a place in an array of other extents: what is 1 here, or a divisor of them, is spread over them.
  float spread(const Four& i, const Four& over) {
    Four own;
    for (std::size_t d = 0; d < 4; ++d) own[d] = i[d] * extents[d] / over[d];
    return at(own);
  }
};

class Interpreter {
 public:
  Interpreter(const AttentionGraph& graph, const GraphArrays& arrays) : graph_(graph) {
    for (const auto& [array, data] : arrays) memory_[static_cast<std::int64_t>(array)] = const_cast<void*>(data);
  }
  void run() {
    for (const GraphStep& step : graph_.steps) {
      Array out = result(step);
      const GraphTensor& t = graph_.tensor(step.out);
      for (float& x : out.numbers) x = rounded(x, t.type);
      if (t.in_memory && memory_.contains(t.id)) {
        const Places to = View{memory_.at(t.id), 0, element_of(t.type)};
        for_each_place(t.extents, [&](const Four& i) { to.set(place(t, i), out.at(i)); });
      }
      known_.insert_or_assign(t.id, std::move(out));
    }
  }

 private:
  static std::int64_t place(const GraphTensor& t, const Four& i) {
    return i[0] * t.strides[0] + i[1] * t.strides[1] + i[2] * t.strides[2] + i[3] * t.strides[3];
  }
  Array& array(std::int64_t id) {
    if (const auto it = known_.find(id); it != known_.end()) return it->second;
    const GraphTensor& t = graph_.tensor(id);
    Array a(t.extents);
    if (t.value) {
      a.numbers[0] = static_cast<float>(*t.value);
    } else {
      const Numbers from = In(memory_.at(id), 0, element_of(t.type));  // throws where it is made of nothing
      for_each_place(t.extents, [&](const Four& i) { a.at(i) = from.at(place(t, i)); });
    }
    return known_.emplace(id, std::move(a)).first->second;
  }

  Array result(const GraphStep& s) {
    Array out(graph_.tensor(s.out).extents);
    Array& a = array(s.a);
    switch (s.work) {
      case GraphWork::product:
        return product(a, array(s.b), out);
      case GraphWork::sum:
      case GraphWork::largest:
        return reduced(a, out, s.work == GraphWork::sum);
      case GraphWork::transpose:
        for_each_place(out.extents, [&](const Four& i) { out.at(i) = a.at({i[0], i[1], i[3], i[2]}); });
        return out;
      default:
        break;
    }
    for_each_place(out.extents, [&](const Four& i) {
      const auto of = [&](std::int64_t id) { return id == 0 ? 0.0f : array(id).spread(i, out.extents); };
      out.at(i) = pointwise(s.work, i, of(s.a), of(s.b), of(s.condition));
    });
    return out;
  }
  static Array product(Array& a, Array& b, Array out) {
    for_each_place(out.extents, [&](const Four& i) {
      float sum = 0;
      for (std::int64_t k = 0; k < a.extents[3]; ++k)
        sum += a.at({i[0], i[1] * a.extents[1] / out.extents[1], i[2], k}) *
               b.at({i[0], i[1] * b.extents[1] / out.extents[1], k, i[3]});
      out.at(i) = sum;
    });
    return out;
  }
  static Array reduced(Array& a, Array out, bool sum) {
    std::fill(out.numbers.begin(), out.numbers.end(), sum ? 0.0f : -INFINITY);
    for_each_place(a.extents, [&](const Four& i) {
      Four to;
      for (std::size_t d = 0; d < 4; ++d) to[d] = i[d] * out.extents[d] / a.extents[d];
      out.at(to) = sum ? out.at(to) + a.at(i) : larger(out.at(to), a.at(i));
    });
    return out;
  }
  static float pointwise(GraphWork work, const Four& i, float a, float b, float condition) {
    switch (work) {
      case GraphWork::row_index:
        return static_cast<float>(i[2]);
      case GraphWork::column_index:
        return static_cast<float>(i[3]);
      case GraphWork::add:
        return a + b;
      case GraphWork::subtract:
        return a - b;
      case GraphWork::multiply:
        return a * b;
      case GraphWork::divide:
        return a / b;
      case GraphWork::exponential:
        return std::exp(a);
      case GraphWork::logarithm:
        return std::log(a);
      case GraphWork::copy:
        return a;
      case GraphWork::at_least:
        return a >= b ? 1.0f : 0.0f;
      case GraphWork::above:
        return a > b ? 1.0f : 0.0f;
      case GraphWork::select:
        return condition != 0.0f ? a : b;
      case GraphWork::product:
      case GraphWork::sum:
      case GraphWork::largest:
      case GraphWork::transpose:
        break;
    }
    std::abort();  // not number by number
  }

  const AttentionGraph& graph_;
  std::map<std::int64_t, void*> memory_;
  std::map<std::int64_t, Array> known_;
};

}  // namespace

struct LibraryAttention::State {};
LibraryAttention::LibraryAttention(Device&) {}
LibraryAttention::~LibraryAttention() = default;
std::string LibraryAttention::version() const { return "steps of a graph"; }
/// As cuDNN 9.19 on GPUs before Hopper.
std::string LibraryAttention::unsupported(const AttentionGraphSpec& spec) {
  return spec.backward && spec.width > 128 ? "heads are too wide" : "";
}
void LibraryAttention::run(const AttentionGraphSpec& spec, const GraphArrays& arrays) {
  const AttentionGraph graph = attention_graph(spec);
  Interpreter(graph, arrays).run();
}

}  // namespace shardwright::cuda
