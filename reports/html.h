#pragma once

#include <string>
#include <vector>

namespace shardwright {

/// JSON of this program, as a file named so has it.
struct ReportFile {
  std::string name, json;
};

/// Whether this build has the page (reports/html): it needs node and npm when it is built.
bool has_html();

/// Throws InputError where it is no JSON of this program: "x.json: must be JSON that this program wrote: ...".
void check_report_file(const ReportFile& file);

/// One page that shows them all, one after the other, complete in itself: it opens from disk and asks for nothing. The
/// files are within, packed, so that nothing in them can be taken for markup. Needs has_html().
std::string html_page(const std::vector<ReportFile>& files);

}  // namespace shardwright
