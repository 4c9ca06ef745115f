#pragma once

#include <map>
#include <string>
#include <vector>

#include "hardware/measured_machine.h"
#include "profiler/measure.h"

namespace shardwright {

/// One kernel of a journal: its time, or why it has none.
struct JournalRow {
  KernelSpec spec;
  std::variant<MeasuredKernel, NotMeasured> answer;
  std::string kernel;  // who ran it
};

/// What a profile has measured so far, a line a kernel: it grows while kernels are measured, and the tables are made of
/// it. The line that every journal begins with, and a row's line, with its end.
std::string journal_head();
std::string journal_line(const JournalRow& row);

/// Rows by the text of their question, in the order of the text. Throws InputError, naming file and line, for text that
/// is no journal; of two lines about one kernel the later counts.
std::map<std::string, JournalRow> read_journal(const std::string& text, const std::string& file);

/// The measured rows as tables. `framework`: who measured them.
Measurements tables_of(const std::map<std::string, JournalRow>& rows, const std::string& framework);

}  // namespace shardwright
