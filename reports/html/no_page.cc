// In place of the generated page, where there was no node or npm to make it.
#include "reports/html/page.h"

namespace shardwright {

std::string_view page_before_data() { return ""; }
std::string_view page_after_data() { return ""; }

}  // namespace shardwright
