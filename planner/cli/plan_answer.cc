#include "planner/cli/plan_answer.h"

#include "planner/cli/html_option.h"
#include "planner/cli/output.h"
#include "reports/json.h"
#include "reports/prediction_text.h"

namespace shardwright {
namespace {

std::string json_of(const Arguments& arguments, const PlanRequest& request, const PlanResult& result,
                    const std::optional<PlanDetail>& detail) {
  if (!detail) return plan_result_json(result);
  constexpr int kOneLine = 1 << 20;
  const AskedAs asked{arguments.positionals[0], arguments.positionals[1]};
  std::string command = estimate_command(request, result, asked, result.plans.at(0), {kOneLine, false});
  command = command.substr(2, command.size() - 3);  // "  " before, a newline behind
  // The layout stands behind a backslash and a newline.
  if (const std::size_t broken = command.find("\\\n    "); broken != std::string::npos) command.erase(broken, 6);
  return plan_result_json(result, *detail, command);
}

}  // namespace

bool asks_for_detail(const Arguments& arguments) { return arguments.has("--json") || arguments.has("--html"); }

void write_plan_answer(const Arguments& arguments, const PlanRequest& request, const PlanResult& result,
                       const std::optional<PlanDetail>& detail, const std::string& text) {
  const std::string json = asks_for_detail(arguments) ? json_of(arguments, request, result, detail) : "";
  write_html(arguments, {{arguments.positionals[0] + " on " + arguments.positionals[1], json}});
  write_answer(arguments, text, json);
}

}  // namespace shardwright
