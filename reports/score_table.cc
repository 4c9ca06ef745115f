#include "reports/score_table.h"

#include <fmt/format.h>

namespace shardwright {

std::string score_table(const std::string& machine, const std::vector<LeaveOutError>& errors, const TableStyle& style) {
  if (errors.empty()) return wrapped("Too little of " + machine + " was measured to leave anything out.", style.width);
  std::string text = wrapped(
      fmt::format("{}: what was measured, asked as if it had not been. |predicted / measured - 1|, and how often it is "
                  "within one sigma of the answer (68 % where sigma is right).",
                  machine),
      style.width);
  for (std::size_t begin = 0; begin < errors.size();) {
    std::size_t end = begin;
    bool all_alike = true;
    for (; end < errors.size() && errors[end].family == errors[begin].family; ++end)
      all_alike = all_alike && errors[end].left_out == errors[begin].left_out;
    std::string title(name_of(errors[begin].family));
    if (all_alike) title += ", all of " + errors[begin].left_out + " left out";
    text += "\n" + bold(title, style) + "\n";
    TextTable table({{"", TextTable::Align::left}, {"n"}, {"median"}, {"90th"}, {"in sigma"}});
    for (; begin < end; ++begin) {
      const LeaveOutError& e = errors[begin];
      const std::string kind = e.kind.empty() ? "all" : e.kind;
      table.add_row({all_alike ? kind : kind + ", without " + e.left_out,
                     grouped(static_cast<std::int64_t>(e.questions)), percent(e.median), percent(e.p90),
                     percent(e.within_sigma, 0)});
    }
    for (const std::string& line : table.lines(2)) text += line + "\n";
  }
  return text;
}

}  // namespace shardwright
