#include "planner/cli/commands.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "profiler/doctor.h"
#include "reports/json.h"
#include "reports/profile_text.h"

namespace shardwright {
namespace {

int run(const Arguments& arguments) {
  const Diagnosis diagnosis = diagnose();
  write_answer(arguments, doctor_text(diagnosis), doctor_json(diagnosis));
  return kDone;
}

}  // namespace

Command doctor_command() {
  return {"doctor",
          "what kernels and ranks can run with here, and what is missing",
          {"doctor", "doctor --json -"},
          {},
          {json_option()},
          run};
}

}  // namespace shardwright
