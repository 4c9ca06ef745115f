#include <cstddef>

#include "hardware/input_error.h"
#include "hardware/input_file.h"
#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/output.h"

namespace shardwright {
namespace {

constexpr std::size_t kLargestReportFile = std::size_t{1} << 28;

int run(const Arguments& arguments) {
  const auto out = arguments.find("--out");
  if (!out) throw InputError("--out: is missing: the page to write, e.g. --out report.html");
  check_html(arguments, "--out");
  std::vector<ReportFile> files;
  for (const std::string& path : arguments.positionals)
    files.push_back({path.substr(path.rfind('/') + 1), read_file(path, kLargestReportFile)});
  write_file(*out, html_page(files));
  return kDone;
}

}  // namespace

Command report_command() {
  return {"report",
          "one page that shows JSON of this program, in a browser",
          {"report plan.json --out plan.html", "report a.json b.json validation.json sweep.json --out all.html"},
          {{"FILE", "what any command wrote with --json; a sweep", true, true, Completes::files}},
          {{"--out", "FILE", "the page: one file that opens from disk", Completes::files}},
          run};
}

}  // namespace shardwright
