#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hardware/input_error.h"

namespace shardwright {

struct YamlNode;
struct YamlText;

/// One place in a YAML file: a value, how it was reached, and where it stands. All YAML is read through this class, so
/// every complaint carries `file:line:column`, the line and a caret.
///
/// A key given twice, an alias or anchor, a file above 8 MiB, more than 100 levels, text that is not UTF-8, and
/// anything that is not a regular file are refused with an InputError. Numbers are decimal: `012`, `0x1F`, `1_000` are
/// refused. A cursor shares ownership of its file: it may outlive the call that made it.
class YamlCursor {
 public:
  /// The top of the file at `path`. Throws InputError.
  static YamlCursor open(const std::string& path);
  /// The top of `text`; `name` stands for the file in messages.
  static YamlCursor parse(std::string text, std::string name);
  /// The same of JSON, whose values are a part of YAML's: strict JSON, with the refusals and messages of this class.
  static YamlCursor open_json(const std::string& path);
  static YamlCursor parse_json(std::string text, std::string name);

  bool is_map() const;
  bool is_list() const;
  bool is_nothing() const;  ///< null, or a key without a value

  /// The value of `key`; InputError at this map's place when it is missing.
  YamlCursor at(std::string_view key) const;
  std::optional<YamlCursor> find(std::string_view key) const;
  /// Entries of a map in file order; the second cursor's key_text is the first.
  std::vector<std::pair<std::string, YamlCursor>> entries() const;
  std::vector<YamlCursor> items() const;

  /// Throws at the first key that is not among `known`, with a suggestion.
  void only_keys(const std::vector<std::string_view>& known) const;

  std::string text() const;                                              ///< any scalar, as written
  bool boolean() const;                                                  ///< `true` or `false`
  std::int64_t integer(std::int64_t low, std::int64_t high) const;       ///< both ends allowed
  double number(double low, double high) const;                          ///< finite
  std::size_t one_of(const std::vector<std::string_view>& words) const;  ///< index of the word; suggests

  /// Throws InputError: `file:line:column: 'path.to.key' message`, the line, a caret. E.g. message "must be above 0".
  [[noreturn]] void fail(const std::string& message) const;
  /// The same at the key of this value instead of the value.
  [[noreturn]] void fail_at_key(const std::string& message) const;

  /// Dotted path from the top: `layers[2].hidden_size`; "" at the top.
  std::string path() const;
  const std::string& file() const;

 private:
  YamlCursor(std::shared_ptr<const YamlText> text, const YamlNode* node) : text_(std::move(text)), node_(node) {}
  std::shared_ptr<const YamlText> text_;
  const YamlNode* node_;
};

}  // namespace shardwright
