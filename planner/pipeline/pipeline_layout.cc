#include "planner/pipeline/pipeline_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace shardwright {
namespace {

constexpr std::size_t kMostSymbols = 100000;

/// The repeats written out: "t*3|" is "ttt|". Throws nothing; a fault comes back as text.
class Unroller {
 public:
  explicit Unroller(std::string_view text) : text_(text) {}

  /// The symbols E t m L |, or "" and a fault.
  std::string symbols() {
    std::string all = sequence(false);
    if (fault_.empty() && at_ < text_.size()) refuse("')' without '('");
    return fault_.empty() ? all : "";
  }
  const std::string& fault() const { return fault_; }

 private:
  void refuse(const std::string& what) {
    if (fault_.empty()) fault_ = fmt::format("has {} at character {}", what, at_ + 1);
  }

  /// Up to the end, or to the ')' that ends a group.
  std::string sequence(bool inside) {
    std::string all;
    while (fault_.empty() && at_ < text_.size() && text_[at_] != ')') {
      const std::string part = item(inside);
      const std::size_t times = repeats();
      if (!fault_.empty()) break;
      if (all.size() + part.size() * times > kMostSymbols) {
        refuse(fmt::format("more than {} symbols", kMostSymbols));
        break;
      }
      for (std::size_t i = 0; i < times; ++i) all += part;
    }
    return all;
  }

  std::string item(bool inside) {
    const char c = text_[at_];
    if (c == ',') {
      ++at_;
      return "";
    }
    if (c == '(' && !inside) {
      const std::size_t begin = at_++;
      std::string group = sequence(true);
      if (!fault_.empty()) return "";
      if (at_ == text_.size()) {
        at_ = begin;
        refuse("'(' without ')'");
        return "";
      }
      ++at_;
      return group;
    }
    if (c == '(') {
      refuse("'(' inside another");
    } else if (std::string_view("EtmL|").find(c) == std::string_view::npos) {
      const bool shows = c > 0x20 && c < 0x7F;
      refuse(shows ? fmt::format("'{}', which is none of E t m L | ( ) *,", c) : "an unprintable character");
    } else {
      ++at_;
      return std::string(1, c);
    }
    return "";
  }

  /// The n of `*n` here, else 1.
  std::size_t repeats() {
    if (!fault_.empty() || at_ == text_.size() || text_[at_] != '*') return 1;
    const std::size_t begin = ++at_;
    std::size_t n = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      n = std::min<std::size_t>(n * 10 + static_cast<std::size_t>(text_[at_++] - '0'), kMostSymbols + 1);
    }
    if (n == 0) {
      at_ = begin;
      refuse("no count above 0 after '*'");
    }
    return n;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::string fault_;
};

}  // namespace

std::variant<std::vector<PipelineChunk>, PipelineLayoutFault> parse_pipeline_layout(std::string_view text) {
  Unroller unroller(text);
  const std::string symbols = unroller.symbols();
  if (!unroller.fault().empty()) return PipelineLayoutFault{unroller.fault()};
  if (!symbols.starts_with('E')) return PipelineLayoutFault{"must begin with E, the embedding"};
  if (!symbols.ends_with('L')) return PipelineLayoutFault{"must end with L, the output layer and loss"};
  if (std::count(symbols.begin(), symbols.end(), 'E') != 1) return PipelineLayoutFault{"has E more than once"};
  if (std::count(symbols.begin(), symbols.end(), 'L') != 1) return PipelineLayoutFault{"has L more than once"};

  std::vector<PipelineChunk> chunks(1);
  for (const char c : symbols) {
    switch (c) {
      case 'E':
        chunks.back().embedding = true;
        break;
      case 't':
        ++chunks.back().layers;
        break;
      case 'm':
        ++chunks.back().prediction_layers;
        break;
      case 'L':
        chunks.back().loss = true;
        break;
      case '|':
        chunks.push_back({});
        break;
      default:
        assert(false && "the unroller lets only these through");
    }
  }
  return chunks;
}

}  // namespace shardwright
