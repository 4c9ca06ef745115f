#include "hardware/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "hardware/yaml_cursor.h"

namespace shardwright {
namespace {

constexpr const char* kSchema = "shardwright.calibration/1";
/// Beyond this something else than its speed differs between a run and a measurement.
constexpr double kMostError = 1e6;

FamilyCalibration read_family(const YamlCursor& map) {
  map.only_keys({"family", "factor", "operators", "date", "median_error_before", "median_error_after"});
  FamilyCalibration found;
  std::vector<std::string_view> names;
  for (int i = 0; i < kKernelFamilies; ++i) names.push_back(name_of(static_cast<KernelFamily>(i)));
  found.family = static_cast<KernelFamily>(map.at("family").one_of(names));
  found.factor = map.at("factor").number(1 / kMostCalibration, kMostCalibration);
  found.operators = static_cast<int>(map.at("operators").integer(1, std::numeric_limits<int>::max()));
  found.date = map.at("date").text();
  found.error_before = map.at("median_error_before").number(0, kMostError);
  found.error_after = map.at("median_error_after").number(0, kMostError);
  return found;
}

}  // namespace

void Calibration::set(const FamilyCalibration& found) {
  factors_[static_cast<std::size_t>(found.family)] = found.factor;
  auto at = std::lower_bound(families_.begin(), families_.end(), found.family,
                             [](const FamilyCalibration& f, KernelFamily family) { return f.family < family; });
  if (at != families_.end() && at->family == found.family) {
    *at = found;
  } else {
    families_.insert(at, found);
  }
}

std::string calibration_file_in(const std::string& folder) {
  return (std::filesystem::path(folder) / "calibration.yaml").string();
}

Calibration read_calibration(const std::string& folder) {
  const std::string path = calibration_file_in(folder);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  const YamlCursor top = YamlCursor::open(path);
  top.only_keys({"schema", "families"});
  top.at("schema").one_of({kSchema});
  Calibration calibration;
  for (const YamlCursor& item : top.at("families").items()) {
    const FamilyCalibration found = read_family(item);
    for (const FamilyCalibration& known : calibration.families())
      if (known.family == found.family) item.at("family").fail("is there twice");
    calibration.set(found);
  }
  return calibration;
}

std::string to_yaml(const Calibration& calibration) {
  std::string text = fmt::format(
      "# By run --calibrate: kernels of these families take so many times as long in a run as measured by themselves.\n"
      "# The errors are medians of |predicted / measured - 1| over the operators of that run, without and with it.\n"
      "schema: {}\nfamilies:{}\n",
      kSchema, calibration.families().empty() ? " []" : "");
  for (const FamilyCalibration& f : calibration.families())
    text += fmt::format(
        "  - {{family: {}, factor: {:.6g}, operators: {}, date: {}, median_error_before: {:.4g}, "
        "median_error_after: {:.4g}}}\n",
        name_of(f.family), f.factor, f.operators, f.date, f.error_before, f.error_after);
  return text;
}

std::string to_string(const Calibration& calibration) {
  std::string text;
  for (const FamilyCalibration& f : calibration.families())
    text += fmt::format("{}{} x {:.2f}", text.empty() ? "" : ", ", name_of(f.family), f.factor);
  return text;
}

}  // namespace shardwright
