#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace shardwright {

/// What a JSON text holds, in its order. `at` is the byte where the value or key begins.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void text(std::size_t at, const std::string& value) = 0;  ///< a string, or the key of a map
  virtual void word(std::size_t at, const std::string& value) = 0;  ///< a number, true or false, as written
  virtual void nothing(std::size_t at) = 0;                         ///< null
  virtual void open_map(std::size_t at) = 0;
  virtual void open_list(std::size_t at) = 0;
  virtual void close() = 0;  ///< of the map or list opened last
};

/// Where a text stops being JSON, and in words what stands there.
struct JsonFault {
  std::size_t at = 0;
  std::string message;
};

/// Tells `events` what `text` holds. Strict: no comments, no trailing commas, nothing after the value.
std::optional<JsonFault> read_json(std::string_view text, JsonEvents& events);

}  // namespace shardwright
