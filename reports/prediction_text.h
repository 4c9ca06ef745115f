#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "planner/plan.h"
#include "reports/format.h"

namespace shardwright {

/// The question as it was typed: MODEL and MACHINE may be files, which a PlanRequest does not know.
struct AskedAs {
  std::string model, machine;
};

// Paragraphs that the reports of `plan` and `estimate` share. Each ends with a newline; stages count from 0.

/// Model, machine, tokens a step, precision, pins.
std::string question_text(const PlanRequest& request, const PlanResult& result, const TableStyle& style);

/// Where the step goes: its parts with shares and bars.
std::string step_text(const Prediction& prediction, const std::string& title, const TableStyle& style);

/// What fills a GPU of the fullest stage, against the memory that tensors can have.
std::string worst_stage_text(const Prediction& prediction, const Machine& machine, const TableStyle& style);

/// Where the numbers come from and how wrong they may be.
std::string source_text(const Prediction& prediction, const Calibration& calibration, const TableStyle& style);

/// "7 + 14 x 8 + 7": layers of each stage, from the first; "" for an impossible layout, which has none.
std::string layers_text(const Layout& layout);

/// A part of a step (StepPart::name) for people: "matrix products", "exposed tp".
std::string part_text(const std::string& name);

/// "high" where the 80 % interval reaches no more than 10 % (as rounded to be read) above what it is of, "medium" 20 %,
/// else "low": where engineers start to act on, and to doubt, a number.
std::string_view confidence(double relative_error);
std::string_view confidence(const Prediction& prediction);

/// What is said first of a layout: "tp 4, pp 16, cp 2 ring, dp 8, zero 1, micro_batch 1".
std::string degrees_text(const Layout& layout);

/// "none", "full", "core_attn+mlp".
std::string recompute_text(const Recompute& recompute);

/// The layout as --layout takes it, broken after commas and '+'.
std::string layout_paragraph(const Layout& layout, const TableStyle& style);

/// A key of --layout whose value differs: "tp", "4", "8".
struct KeyChange {
  std::string key, from, to;
};
std::vector<KeyChange> layout_changes(const Layout& from, const Layout& to);

/// "pp 16 instead of 8, micro_batch 2 instead of 1": what of `other` is not as in `layout`.
std::string layout_differences(const Layout& other, const Layout& layout);

/// A word as a shell reads it back.
std::string quoted(const std::string& word);

/// A command line, broken between `words` ("--gpus 8" is one) with backslashes so that it can be pasted.
std::string command_text(const std::vector<std::string>& words, const TableStyle& style);

/// The command that prices `plan` again, broken with backslashes so that it can be pasted. A long list of layers that
/// the planner chose is left to it again.
std::string estimate_command(const PlanRequest& request, const PlanResult& result, const AskedAs& asked,
                             const PricedLayout& plan, const TableStyle& style);

}  // namespace shardwright
