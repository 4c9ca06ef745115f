#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hardware/measured_machine.h"
#include "planner/cli/command_line.h"
#include "planner/plan.h"

namespace shardwright {

inline constexpr std::int64_t kMostTokens = std::int64_t{1} << 24;  ///< of a sequence

/// The text of `flag` as a number: decimal digits only, no sign, no exponent. Throws InputError: "--gpus: must be a
/// whole number between 1 and 16777216, got '1e30'".
std::int64_t whole_number(const std::string& flag, const std::string& text, std::int64_t low, std::int64_t high);

/// The text of `flag` as a number above 0: decimal digits and a point only. Throws InputError: "--capacity-factor: must
/// be a number above 0 and at most 1000, got '-1'".
double positive_number(const std::string& flag, const std::string& text, double high);

/// MODEL, MACHINE and the options that every question about a training run has.
std::vector<Positional> question_positionals();
std::vector<Option> question_options();

/// Reads what question_positionals() and question_options() declare. Throws InputError; the model is one that can be
/// planned, the machine computes in the precision.
PlanRequest read_question(const Arguments& arguments);

/// --measurements DIR, and what is there: of MACHINE, or of another of its chip (carried_over.h). Throws InputError.
Option measurements_option();
std::optional<MeasuredMachine> read_measured_machine(const Arguments& arguments);

/// Those of MACHINE, where it is a folder, and of --measurements, with their calibration (of both, the latter's); null
/// where there are none. Throws InputError.
std::shared_ptr<const MeasuredTimes> read_all_measurements(const Arguments& arguments, const Machine& machine);
/// The folder of the two that has those of this very machine, --measurements first; "" of neither. Throws InputError.
std::string own_measured_folder(const Arguments& arguments, const Machine& machine);

/// --trace FILE, and what it asks for: the first layout's step, where there is one that can be computed.
Option trace_option();
void write_trace(const Arguments& arguments, PlanRequest request, const PlanResult& result);

/// --unmeasured FILE, and what it asks for: fills `result.unmeasured` and writes the list.
Option unmeasured_option();
void write_unmeasured(const Arguments& arguments, const PlanRequest& request, PlanResult& result);

/// --json FILE and --threads N.
Option json_option();
Option threads_option();
int read_threads(const Arguments& arguments);

}  // namespace shardwright
