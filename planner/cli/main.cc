#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "hardware/input_error.h"
#include "planner/cli/commands.h"
#include "planner/cli/output.h"

namespace shardwright {

std::vector<Command> all_commands() {
  return {plan_command(),   estimate_command(), explain_command(),  sweep_command(),  run_command(),
          models_command(), machines_command(), validate_command(), report_command(), import_command(),
          score_command(),  fit_command(),      profile_command(),  doctor_command(), completion_command()};
}

namespace {

void complain(const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); }

int run(const std::vector<std::string>& words) {
  try {
    const std::vector<Command> commands = all_commands();
    const Parsed parsed = parse_command_line(words, commands);
    if (parsed.command == nullptr) {
      write_stdout(parsed.text);
      return kDone;
    }
    return parsed.command->run(parsed.arguments);
  } catch (const InputError& error) {
    complain(error.what());
    return kInputWrong;
  } catch (const OutputError& error) {
    complain(error.what());
    return kMachineFailed;
  } catch (const std::bad_alloc&) {
    complain("out of memory");
    return kMachineFailed;
  } catch (const std::exception& error) {
    complain(std::string("unexpected failure: ") + error.what());
    return kMachineFailed;
  }
}

}  // namespace
}  // namespace shardwright

int main(int count, char** words) {
  if (count < 1) return shardwright::run({});
  return shardwright::run({words + 1, words + count});
}
