#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace shardwright {

/// What a shell offers where a value is due.
enum class Completes { nothing, words, files };

/// "--gpus N"; a flag when `value` is empty.
struct Option {
  std::string name, value, help;
  Completes completes = Completes::nothing;
  std::vector<std::string> words = {};
};

/// MODEL, MACHINE, ROWS.yaml...
struct Positional {
  std::string name, help;
  bool required = true, many = false;  ///< many: only of the last one
  Completes completes = Completes::nothing;
  std::vector<std::string> words = {};
};

/// What was typed, as text. Reading it is the command's (options.h).
struct Arguments {
  std::vector<std::string> positionals;
  std::map<std::string, std::string> options;  ///< by name, "--gpus"; flags are ""

  bool has(const std::string& option) const { return options.contains(option); }
  std::optional<std::string> find(const std::string& option) const {
    const auto found = options.find(option);
    return found == options.end() ? std::nullopt : std::optional(found->second);
  }
};

/// One subcommand: what it takes, and what it does. `run` returns the exit code.
struct Command {
  std::string name, summary;
  std::vector<std::string> examples;  ///< without "shardwright "
  std::vector<Positional> positionals;
  std::vector<Option> options;
  int (*run)(const Arguments&) = nullptr;
};

/// What a user typed, fit for a message: one line, not above 60 characters.
std::string shown(const std::string& text);

/// Either a command to run, or text that answers the command line by itself (--help, --version).
struct Parsed {
  const Command* command = nullptr;
  Arguments arguments;
  std::string text;
};

/// `words`: argv without the program's name. Throws InputError, one line: an unknown command, option or argument (with
/// a suggestion), an option given twice or without its value, too few arguments.
Parsed parse_command_line(const std::vector<std::string>& words, const std::vector<Command>& commands);

}  // namespace shardwright
