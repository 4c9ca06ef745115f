#include "hardware/yaml_cursor.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cmath>
#include <deque>
#include <istream>
#include <iterator>
#include <limits>
#include <system_error>
#include <unordered_map>

#include "hardware/input_file.h"
#include "hardware/json_events.h"

namespace shardwright {

namespace {
constexpr std::size_t kLargestFile = std::size_t{8} << 20;
constexpr std::size_t kLongestLine = std::size_t{1} << 20;
constexpr std::size_t kMostValues = 500'000;
constexpr int kDeepestLevel = 100;

/// Counted from 0, in bytes, as yaml-cpp does.
struct Mark {
  int line = 0;
  int column = 0;
};
}  // namespace

/// A value of the file. Nodes know their children as a chain, so none of this recurses.
struct YamlNode {
  enum class Kind { nothing, plain, quoted, map, list };
  Kind kind = Kind::nothing;
  Mark mark;
  std::string text;  // of a scalar
  const YamlNode* parent = nullptr;
  YamlNode* first = nullptr;
  YamlNode* last = nullptr;
  YamlNode* next = nullptr;  // the same parent's next child
  std::int64_t index = 0;    // among its parent's children
  std::string key;           // where the parent is a map
  Mark key_mark;

  bool is_scalar() const { return kind == Kind::plain || kind == Kind::quoted; }
};

/// A whole file: its text for messages, its nodes, the first of which is the top.
struct YamlText {
  std::string file;
  std::string text;
  std::deque<YamlNode> nodes;
};

namespace {

// ---- Showing a place ----

/// Starts of the characters of UTF-8 text, so that columns count characters; one more for the end.
std::vector<std::size_t> character_starts(std::string_view line) {
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if ((static_cast<unsigned char>(line[i]) & 0xC0) != 0x80) starts.push_back(i);
  }
  starts.push_back(line.size());
  return starts;
}

/// A terminal must not be steered by what a file says: control characters become '?', tabs a space.
std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1_control = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c1_control) ++i;
    if (byte == '\t') {
      out += ' ';
    } else if (byte < 0x20 || byte == 0x7F || c1_control) {
      out += '?';
    } else {
      out += text[i];
    }
  }
  return out;
}

/// `text` in quotes, cut to a length that suits a message.
std::string in_quotes(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  const std::vector<std::size_t> starts = character_starts(text);
  if (starts.size() <= kLongest + 1) return fmt::format("'{}'", printable(text));
  return fmt::format("'{}...'", printable(text.substr(0, starts[kLongest])));
}

std::string_view line_of(std::string_view text, int number) {
  std::size_t begin = 0;
  for (int i = 0; i < number; ++i) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) return {};
    begin = end + 1;
  }
  std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

/// `file:line:column: message`, the line (or its part around the column) and a caret below the column.
[[noreturn]] void throw_at(const YamlText& text, Mark mark, const std::string& message) {
  constexpr std::size_t kWidest = 100;
  const std::string_view line = line_of(text.text, std::max(mark.line, 0));
  const std::vector<std::size_t> starts = character_starts(line);
  const std::size_t length = starts.size() - 1;
  const auto byte = static_cast<std::size_t>(std::max(mark.column, 0));
  const auto found = std::lower_bound(starts.begin(), starts.end(), byte);
  const std::size_t column = found == starts.end() ? length : static_cast<std::size_t>(found - starts.begin());

  std::size_t begin = 0, end = length;
  if (length > kWidest) {
    begin = std::min(column > kWidest / 2 ? column - kWidest / 2 : 0, length - kWidest);
    end = begin + kWidest;
  }
  std::string shown = printable(line.substr(starts[begin], starts[end] - starts[begin]));
  if (end < length) shown += "...";
  std::size_t indent = column - begin;
  if (begin > 0) {
    shown.insert(0, "...");
    indent += 3;
  }
  throw InputError(fmt::format("{}:{}:{}: {}\n{}\n{}^", text.file, std::max(mark.line, 0) + 1, column + 1, message,
                               shown, std::string(indent, ' ')));
}

// ---- From bytes to nodes ----

/// The length of the UTF-8 character at the start of `text`, 0 if there is none. Unicode 15, table 3-7.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  const auto in = [&](std::size_t i, int low, int high) { return byte(i) >= low && byte(i) <= high; };
  const auto continues = [&](std::size_t i) { return in(i, 0x80, 0xBF); };
  if (in(0, 0xC2, 0xDF)) return continues(1) ? 2 : 0;
  if (in(0, 0xE0, 0xEF)) {
    const int low = byte(0) == 0xE0 ? 0xA0 : 0x80, high = byte(0) == 0xED ? 0x9F : 0xBF;
    return in(1, low, high) && continues(2) ? 3 : 0;
  }
  if (in(0, 0xF0, 0xF4)) {
    const int low = byte(0) == 0xF0 ? 0x90 : 0x80, high = byte(0) == 0xF4 ? 0x8F : 0xBF;
    return in(1, low, high) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

/// Text is UTF-8 without control characters other than tab and line ends (YAML 1.2, 5.1). yaml-cpp guesses UTF-16 from
/// zero bytes and takes byte 4 for the end of the file, so it must not see either.
void check_is_text(std::string_view text, const std::string& file) {
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool plain = (byte >= 0x20 && byte < 0x7F) || byte == '\n' || byte == '\t' || byte == '\r';
    const std::size_t length = plain ? 1 : utf8_length(text.substr(i, 4));
    if (length == 0) throw InputError(fmt::format("{}: is not text: byte 0x{:02x} at offset {}", file, byte, i));
    i += length;
  }
}

/// yaml-cpp looks far ahead before it reports the first value of a line (that may turn out to be a key) or of a bracket
/// left open. Megabytes of brackets would cost it seconds and gigabytes before the limits of Builder are asked, so the
/// coarsest excess is refused here.
void check_lines(const YamlText& text) {
  constexpr int kMostOpen = 10'000;  // some may stand in quotes or comments, hence far above kDeepestLevel
  int line = 0, open = 0;
  std::size_t line_begin = 0;
  for (std::size_t i = 0; i <= text.text.size(); ++i) {
    const char c = i < text.text.size() ? text.text[i] : '\n';
    if (c == '[' || c == '{') ++open;
    if ((c == ']' || c == '}') && open > 0) --open;
    if (open > kMostOpen) {
      throw InputError(fmt::format("{}:{}:1: more than {} levels", text.file, line + 1, kDeepestLevel));
    }
    if (c != '\n') continue;
    if (i - line_begin > kLongestLine) {
      throw InputError(
          fmt::format("{}:{}:1: a line of {} bytes, more than 1 MiB", text.file, line + 1, i - line_begin));
    }
    line_begin = i + 1;
    ++line;
  }
}

/// Lets yaml-cpp read `text` in place.
class ReadBuffer : public std::streambuf {
 public:
  explicit ReadBuffer(std::string& text) { setg(text.data(), text.data(), text.data() + text.size()); }
};

/// Builds the nodes from yaml-cpp's events and refuses what a file of ours never holds.
class Builder : public YAML::EventHandler {
 public:
  explicit Builder(YamlText& text) : text_(text) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 2) throw_at(text_, place(mark), "a second document in one file is not read");
  }
  void OnDocumentEnd() override {}
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw_at(text_, place(mark), "aliases are not read; write the value itself");
  }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(YamlNode::Kind::nothing, mark, "", anchor, "");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    const bool as_text = tag == "!" || tag == "tag:yaml.org,2002:str";
    add(as_text ? YamlNode::Kind::quoted : YamlNode::Kind::plain, mark, tag, anchor, value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::list, mark, tag, anchor);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::map, mark, tag, anchor);
  }
  void OnSequenceEnd() override { levels_.pop_back(); }
  void OnMapEnd() override { levels_.pop_back(); }

 private:
  struct Level {
    YamlNode* node;
    bool has_key = false;  // a key was read, its value is next
    std::string key;
    Mark key_mark;
    std::unordered_map<std::string, int> lines_of_keys;
  };

  static Mark place(const YAML::Mark& mark) { return {mark.line, mark.column}; }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    // yaml-cpp recurses once a level, so this also keeps its stack small.
    if (levels_.size() == kDeepestLevel) {
      throw_at(text_, place(mark), fmt::format("more than {} levels", kDeepestLevel));
    }
    YamlNode* node = add(kind, mark, tag, anchor, "");
    levels_.push_back({node, false, {}, {}, {}});
  }

  /// Takes a key, or makes the node of a value.
  YamlNode* add(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) {
    if (anchor != 0) throw_at(text_, place(mark), "anchors are not read; write the value where it is needed");
    check_tag(kind, mark, tag);
    const bool in_map = !levels_.empty() && levels_.back().node->kind == YamlNode::Kind::map;
    if (in_map && !levels_.back().has_key) {
      take_key(kind, mark, value);
      return nullptr;
    }
    if (text_.nodes.size() == kMostValues) {
      throw_at(text_, place(mark), fmt::format("more than {} values", kMostValues));
    }
    YamlNode& node = text_.nodes.emplace_back();
    node.kind = kind;
    node.mark = place(mark);
    node.text = value;
    if (!levels_.empty()) hang(node, levels_.back());
    return &node;
  }

  void take_key(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& key) {
    if (kind != YamlNode::Kind::plain && kind != YamlNode::Kind::quoted) {
      throw_at(text_, place(mark), "a key must be a word");
    }
    Level& level = levels_.back();
    const auto [at, is_new] = level.lines_of_keys.emplace(key, mark.line + 1);
    if (!is_new) {
      throw_at(text_, place(mark), fmt::format("{} is given twice, first in line {}", in_quotes(key), at->second));
    }
    level.has_key = true;
    level.key = key;
    level.key_mark = place(mark);
  }

  static void hang(YamlNode& node, Level& level) {
    YamlNode& parent = *level.node;
    node.parent = &parent;
    node.index = parent.last == nullptr ? 0 : parent.last->index + 1;
    (parent.last == nullptr ? parent.first : parent.last->next) = &node;
    parent.last = &node;
    if (parent.kind == YamlNode::Kind::map) {
      node.key = std::move(level.key);
      node.key_mark = level.key_mark;
      level.has_key = false;
    }
  }

  /// The tags of YAML's core schema are read where they fit; yaml-cpp's own are "?" (plain) and "!" (quoted).
  void check_tag(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?" || tag == "!") return;
    const std::string_view core = "tag:yaml.org,2002:";
    const std::string_view name = tag.starts_with(core) ? std::string_view(tag).substr(core.size()) : "";
    const bool fits = kind == YamlNode::Kind::map ? name == "map"
                      : kind == YamlNode::Kind::list
                          ? name == "seq"
                          : name == "str" || name == "int" || name == "float" || name == "bool" || name == "null";
    if (!fits) throw_at(text_, place(mark), fmt::format("the tag {} is not read", in_quotes(tag)));
  }

  YamlText& text_;
  std::vector<Level> levels_;
  int documents_ = 0;
};

void build_nodes(YamlText& text) {
  check_lines(text);
  ReadBuffer buffer(text.text);
  std::istream stream(&buffer);
  Builder builder(text);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {}
  } catch (const YAML::Exception& error) {
    throw_at(text, {error.mark.line, error.mark.column}, "this is not YAML: " + printable(error.msg));
  }
  if (text.nodes.empty()) throw_at(text, {}, "the file is empty");
}

/// Hands JSON to the builder as if it were YAML.
class JsonToBuilder : public JsonEvents {
 public:
  explicit JsonToBuilder(YamlText& text) : text_(text.text), builder_(text) {}

  void text(std::size_t at, const std::string& value) override { builder_.OnScalar(mark(at), "!", 0, value); }
  void word(std::size_t at, const std::string& value) override { builder_.OnScalar(mark(at), "?", 0, value); }
  void nothing(std::size_t at) override { builder_.OnNull(mark(at), 0); }
  void open_map(std::size_t at) override {
    builder_.OnMapStart(mark(at), "", 0, YAML::EmitterStyle::Flow);
    open_.push_back(true);
  }
  void open_list(std::size_t at) override {
    builder_.OnSequenceStart(mark(at), "", 0, YAML::EmitterStyle::Flow);
    open_.push_back(false);
  }
  void close() override {
    if (open_.back()) {
      builder_.OnMapEnd();
    } else {
      builder_.OnSequenceEnd();
    }
    open_.pop_back();
  }

  /// Places are asked for in the order of the text.
  YAML::Mark mark(std::size_t at) {
    for (; offset_ < at; ++offset_) {
      if (text_[offset_] != '\n') continue;
      ++line_;
      line_begin_ = offset_ + 1;
    }
    YAML::Mark result;
    result.pos = static_cast<int>(at);
    result.line = line_;
    result.column = static_cast<int>(at - line_begin_);
    return result;
  }

 private:
  const std::string& text_;
  Builder builder_;
  std::vector<bool> open_;  // maps are true
  std::size_t offset_ = 0, line_begin_ = 0;
  int line_ = 0;
};

void build_nodes_of_json(YamlText& text) {
  JsonToBuilder events(text);
  const std::optional<JsonFault> fault = read_json(text.text, events);
  if (!fault) return;
  const YAML::Mark mark = events.mark(fault->at);
  throw_at(text, {mark.line, mark.column}, "this is not JSON: " + printable(fault->message));
}

using BuildNodes = void (*)(YamlText&);

std::shared_ptr<const YamlText> whole_file(std::string text, std::string name, BuildNodes build) {
  if (text.size() > kLargestFile) {
    throw InputError(fmt::format("cannot read '{}': it has {} bytes, more than 8 MiB", name, text.size()));
  }
  check_is_text(text, name);
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);  // a byte order mark is not part of the first line
  auto whole = std::make_shared<YamlText>();
  whole->file = std::move(name);
  whole->text = std::move(text);
  build(*whole);
  return whole;
}

// ---- Numbers ----

std::size_t count_digits(std::string_view text) {
  const std::size_t end = text.find_first_not_of("0123456789");
  return end == std::string_view::npos ? text.size() : end;
}

bool is_whole_number(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && count_digits(text) == text.size() && (text.size() == 1 || text[0] != '0');
}

/// -1, 1.5, .5, 1e-6, 989.4e12; not 012, 0x1F, 1_000, inf.
bool is_decimal(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  const std::size_t whole = count_digits(text);
  if (whole > 1 && text[0] == '0') return false;
  text.remove_prefix(whole);
  std::size_t fraction = 0;
  if (text.starts_with('.')) {
    fraction = count_digits(text.substr(1));
    text.remove_prefix(1 + fraction);
  }
  if (whole + fraction == 0) return false;
  if (text.empty()) return true;
  if (text[0] != 'e' && text[0] != 'E') return false;
  text.remove_prefix(1);
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  return !text.empty() && count_digits(text) == text.size();
}

/// What a value is, for "got ...".
std::string shown(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::nothing:
      return "nothing";
    case YamlNode::Kind::plain:
      return in_quotes(node.text);
    case YamlNode::Kind::quoted:
      return "the text " + in_quotes(node.text);
    case YamlNode::Kind::map:
      return "a map";
    case YamlNode::Kind::list:
      return "a list";
  }
  assert(false && "a kind of node without a name");
  return "";
}

template <typename Number>
std::string range_message(Number low, Number high, std::string_view got) {
  const bool open_above = high == std::numeric_limits<Number>::max();
  return open_above ? fmt::format("must be at least {}, got {}", low, got)
                    : fmt::format("must be between {} and {}, got {}", low, high, got);
}

}  // namespace

YamlCursor YamlCursor::open(const std::string& path) { return parse(read_file(path, kLargestFile), path); }
YamlCursor YamlCursor::open_json(const std::string& path) { return parse_json(read_file(path, kLargestFile), path); }

YamlCursor YamlCursor::parse(std::string text, std::string name) {
  std::shared_ptr<const YamlText> whole = whole_file(std::move(text), std::move(name), build_nodes);
  const YamlNode* top = &whole->nodes.front();
  return YamlCursor(std::move(whole), top);
}

YamlCursor YamlCursor::parse_json(std::string text, std::string name) {
  std::shared_ptr<const YamlText> whole = whole_file(std::move(text), std::move(name), build_nodes_of_json);
  const YamlNode* top = &whole->nodes.front();
  return YamlCursor(std::move(whole), top);
}

bool YamlCursor::is_map() const { return node_->kind == YamlNode::Kind::map; }
bool YamlCursor::is_list() const { return node_->kind == YamlNode::Kind::list; }
bool YamlCursor::is_nothing() const { return node_->kind == YamlNode::Kind::nothing; }

YamlCursor YamlCursor::at(std::string_view key) const {
  if (std::optional<YamlCursor> found = find(key)) return *found;
  const std::string parent = path();
  throw_at(*text_, node_->mark, fmt::format("'{}{}{}' is missing", parent, parent.empty() ? "" : ".", key));
}

std::optional<YamlCursor> YamlCursor::find(std::string_view key) const {
  if (!is_map()) fail("must be a map, got " + shown(*node_));
  for (const YamlNode* child = node_->first; child != nullptr; child = child->next) {
    if (child->key == key) return YamlCursor(text_, child);
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, YamlCursor>> YamlCursor::entries() const {
  if (!is_map()) fail("must be a map, got " + shown(*node_));
  std::vector<std::pair<std::string, YamlCursor>> all;
  for (const YamlNode* child = node_->first; child != nullptr; child = child->next) {
    all.push_back({child->key, YamlCursor(text_, child)});
  }
  return all;
}

std::vector<YamlCursor> YamlCursor::items() const {
  if (!is_list()) fail("must be a list, got " + shown(*node_));
  std::vector<YamlCursor> all;
  for (const YamlNode* child = node_->first; child != nullptr; child = child->next) {
    all.push_back(YamlCursor(text_, child));
  }
  return all;
}

void YamlCursor::only_keys(const std::vector<std::string_view>& known) const {
  if (!is_map()) fail("must be a map, got " + shown(*node_));
  for (const YamlNode* child = node_->first; child != nullptr; child = child->next) {
    if (std::find(known.begin(), known.end(), child->key) != known.end()) continue;
    throw_at(*text_, child->key_mark,
             fmt::format("unknown key {}{}", in_quotes(child->key), did_you_mean(child->key, known)));
  }
}

std::string YamlCursor::text() const {
  if (!node_->is_scalar()) fail("must be text, got " + shown(*node_));
  return node_->text;
}

bool YamlCursor::boolean() const {
  if (node_->kind == YamlNode::Kind::plain && node_->text == "true") return true;
  if (node_->kind == YamlNode::Kind::plain && node_->text == "false") return false;
  fail("must be true or false, got " + shown(*node_));
}

std::int64_t YamlCursor::integer(std::int64_t low, std::int64_t high) const {
  const std::string& digits = node_->text;
  if (node_->kind != YamlNode::Kind::plain || !is_whole_number(digits)) {
    fail("must be a whole number, got " + shown(*node_));
  }
  std::int64_t value = 0;
  const std::errc error = std::from_chars(digits.data(), digits.data() + digits.size(), value).ec;
  const bool too_long = error != std::errc();
  if (too_long || value < low || value > high) fail(range_message(low, high, digits.substr(0, 60)));
  return value;
}

double YamlCursor::number(double low, double high) const {
  const std::string& digits = node_->text;
  if (node_->kind != YamlNode::Kind::plain || !is_decimal(digits)) fail("must be a number, got " + shown(*node_));
  double value = 0;
  const std::errc error = std::from_chars(digits.data(), digits.data() + digits.size(), value).ec;
  const bool not_a_double = error != std::errc() || !std::isfinite(value);  // 1e999, 1e-999
  if (not_a_double || value < low || value > high) fail(range_message(low, high, digits.substr(0, 60)));
  return value;
}

std::size_t YamlCursor::one_of(const std::vector<std::string_view>& words) const {
  const auto found = std::find(words.begin(), words.end(), node_->text);
  if (node_->is_scalar() && found != words.end()) return static_cast<std::size_t>(found - words.begin());
  const std::string suggestion = node_->is_scalar() ? did_you_mean(node_->text, words) : "";
  fail(fmt::format("must be one of {}, got {}{}", fmt::join(words, ", "), shown(*node_), suggestion));
}

void YamlCursor::fail(const std::string& message) const {
  const std::string where = path();
  throw_at(*text_, node_->mark, where.empty() ? "the file " + message : fmt::format("'{}' {}", where, message));
}

void YamlCursor::fail_at_key(const std::string& message) const {
  const bool has_key = node_->parent != nullptr && node_->parent->kind == YamlNode::Kind::map;
  if (!has_key) fail(message);
  throw_at(*text_, node_->key_mark, fmt::format("'{}' {}", path(), message));
}

std::string YamlCursor::path() const {
  std::vector<const YamlNode*> steps;
  for (const YamlNode* node = node_; node->parent != nullptr; node = node->parent) steps.push_back(node);
  std::string whole;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const YamlNode& node = **step;
    if (node.parent->kind == YamlNode::Kind::list) {
      fmt::format_to(std::back_inserter(whole), "[{}]", node.index);
    } else {
      fmt::format_to(std::back_inserter(whole), "{}{}", whole.empty() ? "" : ".", printable(node.key));
    }
  }
  return whole;
}

const std::string& YamlCursor::file() const { return text_->file; }

}  // namespace shardwright
