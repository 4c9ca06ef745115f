#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/serve/serve_detail.h"
#include "reports/format.h"

namespace shardwright {

/// What a layout, or each of the best, does with a serving workload: latencies and rates with intervals, memory, why no
/// larger batch, where times come from; links, what changes of the question do, and the command that asks for the first
/// plan again (command_text).
std::string serve_text(const ServeRequest& request, const ServeResult& result, const std::optional<ServeDetail>& detail,
                       const std::vector<std::string>& command, const TableStyle& style);

/// What is asked, in one paragraph.
std::string serve_question_text(const ServeRequest& request, const ServeResult& result, const TableStyle& style);

/// As --layout takes it; of pools both.
std::string served_text(const ServedLayout& plan);

/// "prompts twice as long: -45.9 % tokens/s/GPU, ttft 13.4 s, tpot 833 ms", beside the prediction of today.
std::string serve_what_if_text(const ServeWhatIf& change, const ServePrediction& now);

/// How sure a prediction is, and where its times come from.
std::string serve_sources_text(const ServePrediction& prediction, const TableStyle& style);

}  // namespace shardwright
