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

/// One page that shows them all, one after the other, complete in itself: it opens from disk and asks for nothing. The
/// files are within, packed, so that nothing in them can be taken for markup; of plans behind the first hundred without
/// what they list by stage, which "page_left_out" says. Needs has_html(). Throws InputError where one is no JSON of
/// this program: "x.json: must be JSON that this program wrote: ...".
std::string html_page(const std::vector<ReportFile>& files);

}  // namespace shardwright
