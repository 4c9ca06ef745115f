#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/output.h"

namespace shardwright {
namespace {

std::vector<std::string> names_of(const std::vector<Option>& options) {
  std::vector<std::string> names;
  for (const Option& option : options) names.push_back(option.name);
  names.push_back("--help");
  return names;
}

/// The arm of one command in the shell function below: values after an option, option names, arguments by their place.
std::string bash_command(const Command& command) {
  std::string text = fmt::format("    {})\n      case $previous in\n", command.name);
  for (const Option& option : command.options) {
    if (option.value.empty()) continue;
    const std::string offer = option.completes == Completes::words
                                  ? fmt::format("words='{}'", fmt::join(option.words, " "))
                              : option.completes == Completes::files ? std::string("files=yes")
                                                                     : "return";
    text += fmt::format("        {}) {} ;;\n", option.name, offer);
  }
  text += fmt::format("        *)\n          case $current,$COMP_CWORD in\n            -*) words='{}' ;;\n",
                      fmt::join(names_of(command.options), " "));
  for (std::size_t i = 0; i < command.positionals.size(); ++i) {
    const Positional& positional = command.positionals[i];
    text += fmt::format("            *,{}) ", positional.many ? "*" : std::to_string(i + 2));
    if (positional.completes == Completes::words) {
      text += fmt::format("words='{}' files=yes ;;\n", fmt::join(positional.words, " "));
    } else {
      text += "files=yes ;;\n";
    }
  }
  return text + "          esac ;;\n      esac ;;\n";
}

std::string bash_script(const std::vector<Command>& commands) {
  std::vector<std::string> names;
  std::string arms;
  for (const Command& command : commands) {
    names.push_back(command.name);
    arms += bash_command(command);
  }
  return fmt::format(
      "_shardwright() {{\n"
      "  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words= files=\n"
      "  COMPREPLY=()\n"
      "  if ((COMP_CWORD == 1)); then words='{} --help --version'; fi\n"
      "  if ((COMP_CWORD > 1)); then case ${{COMP_WORDS[1]}} in\n{}"
      "  esac; fi\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  if [[ $files == yes ]]; then COMPREPLY+=($(compgen -f -- \"$current\")); fi\n"
      "}}\n"
      "complete -o filenames -F _shardwright shardwright\n",
      fmt::join(names, " "), arms);
}

/// Inside single quotes of fish.
std::string fish_quoted(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') result += '\\';
    result += c;
  }
  return result + "'";
}

std::string fish_script(const std::vector<Command>& commands) {
  std::string text = "complete -c shardwright -f\n";
  for (const Command& command : commands) {
    text += fmt::format("complete -c shardwright -n __fish_use_subcommand -a {} -d {}\n", command.name,
                        fish_quoted(command.summary));
    const std::string inside = fmt::format("complete -c shardwright -n '__fish_seen_subcommand_from {}'", command.name);
    for (const Option& option : command.options) {
      text += fmt::format("{} -l {} -d {}", inside, option.name.substr(2), fish_quoted(option.help));
      if (option.completes == Completes::files) {
        text += " -r -F";
      } else if (!option.value.empty()) {
        text += " -x";
      }
      if (!option.words.empty())
        text += fmt::format(" -a {}", fish_quoted(fmt::format("{}", fmt::join(option.words, " "))));
      text += "\n";
    }
    for (const Positional& positional : command.positionals) {
      if (positional.completes == Completes::files) text += inside + " -F\n";
      if (!positional.words.empty()) {
        text += fmt::format("{} -a {}\n", inside, fish_quoted(fmt::format("{}", fmt::join(positional.words, " "))));
      }
    }
  }
  return text;
}

int run(const Arguments& arguments) {
  const std::string& shell = arguments.positionals[0];
  const std::vector<Command> commands = all_commands();
  if (shell == "bash") {
    write_stdout(bash_script(commands));
  } else if (shell == "zsh") {
    write_stdout("autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" +
                 bash_script(commands));
  } else if (shell == "fish") {
    write_stdout(fish_script(commands));
  } else {
    throw InputError(fmt::format("completion: SHELL must be one of bash, zsh, fish, got '{}'{}", shell,
                                 did_you_mean(shell, {"bash", "zsh", "fish"})));
  }
  return kDone;
}

}  // namespace

Command completion_command() {
  return {"completion",
          "a script that completes this program's command line in a shell",
          {"completion bash > /etc/bash_completion.d/shardwright"},
          {{"SHELL", "bash, zsh or fish", true, false, Completes::words, {"bash", "zsh", "fish"}}},
          {},
          run};
}

}  // namespace shardwright
