#include "planner/cli/html_option.h"

#include "planner/cli/output.h"

namespace shardwright {

Option html_option() { return {"--html", "FILE", "write one page there that opens from disk", Completes::files}; }

void check_html(const Arguments& arguments, const std::string& flag) {
  if (!arguments.has(flag) || has_html()) return;
  throw OutputError(flag +
                    ": this program was built without HTML reports; with nodejs and npm installed, build it again");
}

void write_html(const Arguments& arguments, const std::vector<ReportFile>& files) {
  if (const auto path = arguments.find("--html")) write_file(*path, html_page(files));
}

}  // namespace shardwright
