#include "planner/cost/network_rate.h"

#include <regex>

namespace shardwright {

std::optional<double> network_rate(const std::string& interconnect, std::int64_t gpus_per_node) {
  static const std::regex rate("(?:HDR([0-9]{2,4}))|([0-9]{2,4}) ?(GB/s|Gb/s|G\\b)");
  static const std::regex count("\\b([0-9]{1,3})x ");
  std::smatch last;
  for (std::sregex_iterator found(interconnect.begin(), interconnect.end(), rate), end; found != end; ++found)
    last = *found;
  if (last.empty()) return std::nullopt;
  const double bits = last[3] == "GB/s" ? 8 : 1;
  const double of_one = std::stod(last[1].matched ? last[1] : last[2]) * bits * 1e9 / 8;
  const std::string before(interconnect.cbegin(), last[0].first), after(last[0].second, interconnect.cend());
  double links = 0;
  for (std::sregex_iterator found(before.begin(), before.end(), count), end; found != end; ++found)
    links = std::stod((*found)[1]);
  if (links == 0 && after.find("per node") == std::string::npos && after.find("per GPU") == std::string::npos)
    return std::nullopt;
  if (links == 0) links = 1;
  const bool per_gpu = after.find("per GPU") != std::string::npos;
  return links * of_one / (per_gpu ? 1.0 : static_cast<double>(gpus_per_node));
}

}  // namespace shardwright
