#include "reports/html.h"

#include <fmt/format.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

#include "hardware/gzip.h"
#include "hardware/input_error.h"
#include "reports/html/page.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

/// RFC 4648, section 4.
std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned group = 0;
    for (std::size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63u] : '=';
  }
  return text;
}

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json parsed(const ReportFile& file) {
  constexpr const char* kMust = "{}: must be JSON that this program wrote: {}";
  Json json;
  try {
    json = Json::parse(file.json);
  } catch (const Json::exception&) { throw InputError(fmt::format(kMust, file.name, "it is no JSON, or cut off")); }
  const auto schema = json.is_object() ? json.find("schema") : json.end();
  if (schema == json.end() || !schema->is_string() || !schema->get<std::string>().starts_with("shardwright."))
    throw InputError(fmt::format(kMust, file.name, "it has no 'schema: shardwright...'"));
  return json;
}

/// Of ten thousand plans the lists by stage would be most of a page, which shows the first plan's.
constexpr std::size_t kPlansWithStages = 100;

std::string embedded(const ReportFile& file) {
  Json json = parsed(file);
  const auto plans = json.find("plans");
  if (plans == json.end() || !plans->is_array() || plans->size() <= kPlansWithStages) return file.json;
  for (std::size_t i = kPlansWithStages; i < plans->size(); ++i) {
    Json& plan = (*plans)[i];
    if (!plan.is_object() || !plan.contains("predicted") || !plan["predicted"].is_object()) continue;
    for (const char* list : {"memory_per_stage", "idle_seconds_per_stage"}) plan["predicted"].erase(list);
  }
  json["page_left_out"] = fmt::format("what plans behind the first {} list by stage", kPlansWithStages);
  return text_of(json);
}

}  // namespace

bool has_html() { return !page_before_data().empty(); }

std::string html_page(const std::vector<ReportFile>& files) {
  std::string list;
  for (const ReportFile& file : files) {
    list += fmt::format("{}{{\"name\":{},\"data\":{}}}", list.empty() ? "[" : ",", text_of(file.name), embedded(file));
  }
  std::string page(page_before_data());
  page += base64(gzip(list + "]"));
  page += page_after_data();
  return page;
}

}  // namespace shardwright
