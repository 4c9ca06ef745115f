#pragma once

#include <optional>
#include <string>

#include "planner/serve/serve_explain.h"

namespace shardwright {

/// The `plan_result` of a serving question; see json.h. `command` asks for the first plan again.
std::string serve_result_json(const ServeResult& result, const std::optional<ServeDetail>& detail = {},
                              const std::string& command = "");

/// The `explanation` of a serving question; see json.h.
std::string serve_explanation_json(const ServeExplanation& explanation);

}  // namespace shardwright
