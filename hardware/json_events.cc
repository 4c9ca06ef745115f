#include "hardware/json_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>

namespace shardwright {
namespace {

using Json = nlohmann::json;

/// Reads a text and says how far the parser has come: nlohmann's events have no positions.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* place;
  const char** reached;

  reference operator*() const { return *place; }
  CountingIterator& operator++() {
    *reached = ++place;
    return *this;
  }
  CountingIterator operator++(int) {
    const CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return place == other.place; }
  bool operator!=(const CountingIterator& other) const { return place != other.place; }
};

class Reader : public nlohmann::json_sax<Json> {
 public:
  Reader(std::string_view text, JsonEvents& events) : text_(text), reached_(text.data()), events_(events) {}

  std::optional<JsonFault> read() {
    Json::sax_parse(CountingIterator{text_.data(), &reached_}, CountingIterator{text_.data() + text_.size(), &reached_},
                    this);
    return fault_;
  }

  bool null() override { return events_.nothing(next()), true; }
  bool boolean(bool value) override { return events_.word(next(), value ? "true" : "false"), true; }
  bool number_integer(std::int64_t) override { return number(), true; }
  bool number_unsigned(std::uint64_t) override { return number(), true; }
  bool number_float(double, const std::string&) override { return number(), true; }
  bool string(std::string& value) override { return events_.text(next(), value), true; }
  bool key(std::string& value) override { return events_.text(next(), value), true; }
  bool binary(binary_t&) override { return false; }  // JSON has none
  bool start_object(std::size_t) override { return events_.open_map(next()), true; }
  bool start_array(std::size_t) override { return events_.open_list(next()), true; }
  bool end_object() override { return close(), true; }
  bool end_array() override { return close(), true; }

  /// `end`: the characters read, the token at fault included; one more than there are where the text has ended.
  bool parse_error(std::size_t end, const std::string&, const nlohmann::detail::exception&) override {
    if (end > text_.size()) {
      fault_ = JsonFault{text_.size(), "it ends too early"};
    } else {
      const std::size_t begin = std::min(text_.find_first_not_of(" \t\r\n,:", end_of_last_), end - 1);
      fault_ = JsonFault{
          begin, fmt::format("'{}' is not expected here", text_.substr(begin, std::min<std::size_t>(end - begin, 60)))};
    }
    return false;
  }

 private:
  std::size_t offset() const { return static_cast<std::size_t>(reached_ - text_.data()); }

  /// Where the token that was just read begins: after the one before it and what may stand between.
  std::size_t next() {
    const std::size_t begin = text_.find_first_not_of(" \t\r\n,:]}", end_of_last_);
    end_of_last_ = offset();
    return begin;
  }

  /// As written: the library has looked one character past its end, unless the text ends with it.
  void number() {
    const std::size_t begin = next();
    end_of_last_ = std::min(text_.find_first_not_of("0123456789+-.eE", begin), text_.size());
    events_.word(begin, std::string(text_.substr(begin, end_of_last_ - begin)));
  }

  void close() {
    end_of_last_ = offset();
    events_.close();
  }

  std::string_view text_;
  const char* reached_;
  JsonEvents& events_;
  std::size_t end_of_last_ = 0;
  std::optional<JsonFault> fault_;
};

}  // namespace

std::optional<JsonFault> read_json(std::string_view text, JsonEvents& events) { return Reader(text, events).read(); }

}  // namespace shardwright
