#include "reports/profile_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "reports/format.h"

namespace shardwright {

namespace {

/// `what` in lines behind a label that takes `indent` columns.
std::string labelled(const std::string& label, const std::string& what, int indent) {
  std::string text = wrapped(what, 80, indent);
  return text.replace(0, label.size(), label);
}

}  // namespace

std::string profile_text(const std::map<std::string, JournalRow>& rows, const std::string& folder,
                         const std::string& machine) {
  struct Family {
    std::int64_t measured = 0, uncertain = 0;
  };
  std::array<Family, kKernelFamilies> families;
  std::map<std::string, std::int64_t> reasons;
  constexpr double kUncertain = 0.02;
  for (const auto& [text, row] : rows) {
    if (const auto* failed = std::get_if<NotMeasured>(&row.answer)) {
      ++reasons[failed->reason];
      continue;
    }
    Family& family = families[row.spec.index()];
    ++family.measured;
    family.uncertain += !(std::get<MeasuredKernel>(row.answer).relative_error <= kUncertain);
  }
  std::string text = fmt::format("{}: kernels of {}\n", folder, machine);
  for (int i = 0; i < kKernelFamilies; ++i) {
    const Family& family = families[static_cast<std::size_t>(i)];
    if (family.measured == 0) continue;
    text += fmt::format("  {:<14} {:>6}", name_of(static_cast<KernelFamily>(i)), grouped(family.measured));
    if (family.uncertain > 0) text += fmt::format("   {} with an error above 2 %", grouped(family.uncertain));
    text += "\n";
  }
  if (!reasons.empty()) text += "not measured\n";
  for (const auto& [reason, count] : reasons) text += labelled(fmt::format("{:>6}", grouped(count)), reason, 8);
  return text;
}

std::string doctor_text(const Diagnosis& diagnosis) {
  std::string text = fmt::format("{:<10} {}, {} core{}, {}\n", "processor", diagnosis.processor, diagnosis.cores,
                                 diagnosis.cores == 1 ? "" : "s", with_unit(diagnosis.memory));
  for (const Part& part : diagnosis.parts) {
    const std::string what = part.version.empty()
                                 ? fmt::format("missing: {}. {}{}.", part.missing, "Without it ", part.costs)
                                 : part.version;
    text += labelled(part.name, what, 11);
  }
  return text;
}

}  // namespace shardwright
