#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace shardwright {

/// The user's input is wrong. what() is the whole message for people, without a final newline:
/// `llama.yaml:7:11: 'hidden_size' must be a whole number, got 'twelve'`, then the line and a caret where there is a
/// file. Thrown where input is read; caught once, in the CLI, which exits with 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The candidate nearest in spelling to `word`, or "" when none is near enough to be worth suggesting
/// (edit distance above a third of the word's length).
std::string_view nearest_spelling(std::string_view word, const std::vector<std::string_view>& candidates);

/// " (did you mean 'hidden_size'?)" or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string_view>& candidates);

/// What could steer a terminal, or is no single column wide, as '?'.
std::string shown_plainly(std::string_view text);

/// Throws InputError about the character `at` (from 0) of a text that a user gave in one line: `--pin:1:4: message`,
/// the line and a caret. `what` is the text's name.
[[noreturn]] void fail_in_text(std::string_view what, std::string_view text, std::size_t at, std::string_view message);

}  // namespace shardwright
