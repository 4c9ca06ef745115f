#include "reports/unmeasured_text.h"

#include <fmt/format.h>

#include "reports/format.h"

namespace shardwright {

std::string unmeasured_text(const PlanResult& result) {
  const std::size_t layouts = rivals(result).size();
  std::string text = fmt::format(
      "# {} on {} {}: what was not measured of {}, most doubt first.\n"
      "# Seconds and calls are those of one GPU in a step{}.\n",
      result.model, result.gpus, result.machine,
      layouts == 1 ? "the layout" : fmt::format("the {} layouts that may be the fastest", layouts),
      layouts == 1 ? "" : ", all of these layouts together");
  for (const UnmeasuredKernel& kernel : *result.unmeasured) {
    text +=
        fmt::format("# {}  {} ({})  error {}  calls {:.6g}\n{}\n", name_of(kernel.source), with_unit(kernel.seconds),
                    percent(kernel.share), percent(kernel.relative_error), kernel.calls, to_string(kernel.spec));
  }
  return text;
}

}  // namespace shardwright
