// The only file that sees CLI11, which takes longer to compile than the rest of the program's front together.
#include "planner/cli/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string_view>

#include "hardware/input_error.h"
#include "reports/json.h"

namespace shardwright {
namespace {

std::string top_help(const std::vector<Command>& commands) {
  std::string text =
      "How should a large language model be split over these GPUs, and why?\n\n"
      "Usage: shardwright COMMAND ...\n\nCommands:\n";
  for (const Command& command : commands) text += fmt::format("  {:<12}{}\n", command.name, command.summary);
  return text +
         "\n  --help      this text; after a command: its own\n"
         "  --version   the program's version\n\n"
         "Example:\n"
         "  shardwright plan llama-3.1-405b h100-sxm-80gb --gpus 1024 \\\n"
         "    --sequence-length 8192 --global-batch 512\n\n"
         "Exit codes: 0 done, 1 nothing that was asked for fits (the answer is printed all\n"
         "the same), 2 the input is wrong, 3 the machine failed.\n";
}

std::string sentence(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text + ".";
}

/// One command as CLI11 sees it. All values are taken as text and none is required: the messages are ours.
class CommandApp {
 public:
  explicit CommandApp(const Command& command)
      : command_(command), app_(sentence(command.summary), "shardwright " + command.name) {
    app_.allow_extras();
    app_.set_help_flag("--help,-h", "this text");
    const auto keep = [](const CLI::results_t&) { return true; };
    for (const Positional& positional : command.positionals) {
      const std::string shown = positional.many ? positional.name + "..." : positional.name;
      CLI::Option* option = app_.add_option(positional.name, keep, positional.help);
      option->type_name("")
          ->expected(1, positional.many ? CLI::detail::expected_max_vector_size : 1)
          ->allow_extra_args(positional.many)
          ->option_text(positional.required ? "" : "(optional)");
      positionals_.push_back(option);
    }
    for (const Option& declared : command.options) {
      if (declared.value.empty()) {
        options_.push_back(app_.add_flag(declared.name, declared.help));
      } else {
        CLI::Option* option = app_.add_option(declared.name, keep, declared.help);
        option->type_name(declared.value)->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
        options_.push_back(option);
      }
    }
    std::string footer = "\nExamples:";
    for (const std::string& example : command.examples) footer += "\n  shardwright " + example;
    app_.footer(footer);
  }

  Parsed parse(std::vector<std::string> words) {
    const std::string last = words.empty() ? "" : words.back();
    std::reverse(words.begin(), words.end());  // CLI11 takes them from the back
    try {
      app_.parse(words);
    } catch (const CLI::CallForHelp&) {
      Parsed help;
      help.text = app_.help();
      return help;
    } catch (const CLI::ArgumentMismatch&) {
      // Values are taken whatever they look like, so only the last option can be without one.
      throw InputError(fmt::format("{}: needs a value", last));
    } catch (const CLI::ParseError& error) { throw InputError(fmt::format("{}: {}", command_.name, error.what())); }
    refuse_extras();
    Parsed parsed{&command_, {}, ""};
    collect_positionals(parsed.arguments);
    collect_options(parsed.arguments);
    return parsed;
  }

 private:
  void refuse_extras() const {
    std::vector<std::string> extras = app_.remaining();
    std::erase(extras, "--");  // CLI11 leaves the separator there
    if (extras.empty()) return;
    const auto option = std::find_if(extras.begin(), extras.end(),
                                     [](const std::string& word) { return word.size() > 1 && word[0] == '-'; });
    if (option == extras.end())
      throw InputError(fmt::format("{}: unexpected argument '{}'", command_.name, shown(extras[0])));
    const std::string name = option->substr(0, option->find('='));
    std::vector<std::string_view> known = {"--help"};
    for (const Option& declared : command_.options) known.push_back(declared.name);
    throw InputError(fmt::format("{}: unknown option '{}'{}", command_.name, shown(name), did_you_mean(name, known)));
  }

  void collect_positionals(Arguments& arguments) const {
    for (std::size_t i = 0; i < positionals_.size(); ++i) {
      const Positional& declared = command_.positionals[i];
      const std::vector<std::string> values = positionals_[i]->results();
      if (values.empty() && declared.required) {
        throw InputError(fmt::format("{}: {} is missing: {}", command_.name, declared.name, declared.help));
      }
      arguments.positionals.insert(arguments.positionals.end(), values.begin(), values.end());
    }
  }

  void collect_options(Arguments& arguments) const {
    for (std::size_t i = 0; i < options_.size(); ++i) {
      const Option& declared = command_.options[i];
      if (options_[i]->count() == 0) continue;
      if (options_[i]->count() > 1) throw InputError(fmt::format("{}: is given twice", declared.name));
      const std::string value = options_[i]->results()[0];
      if (declared.value.empty() && value != "true") throw InputError(fmt::format("{}: takes no value", declared.name));
      arguments.options[declared.name] = declared.value.empty() ? "" : value;
    }
  }

  const Command& command_;
  CLI::App app_;
  std::vector<CLI::Option*> positionals_, options_;
};

}  // namespace

std::string shown(const std::string& text) {
  constexpr std::size_t kMost = 60;
  std::string result = text.substr(0, kMost);
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text.size() > kMost ? result + "..." : result;
}

Parsed parse_command_line(const std::vector<std::string>& words, const std::vector<Command>& commands) {
  std::vector<std::string_view> names;
  for (const Command& command : commands) names.push_back(command.name);
  if (words.empty()) {
    throw InputError(fmt::format("which command? One of {}; `shardwright --help` says more", fmt::join(names, ", ")));
  }
  const std::string& first = words[0];
  if (first == "--help" || first == "-h") return {nullptr, {}, top_help(commands)};
  if (first == "--version") return {nullptr, {}, fmt::format("shardwright {}\n", version())};
  if (first.size() > 1 && first[0] == '-') {
    throw InputError(fmt::format("unknown option '{}' before a command", shown(first)));
  }
  const auto found =
      std::find_if(commands.begin(), commands.end(), [&](const Command& command) { return command.name == first; });
  if (found == commands.end()) {
    throw InputError(fmt::format("unknown command '{}'{}; `shardwright --help` lists them", shown(first),
                                 did_you_mean(first, names)));
  }
  return CommandApp(*found).parse({words.begin() + 1, words.end()});
}

}  // namespace shardwright
