#include "reports/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

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

/// A name as an error message can have it.
std::string one_line(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return c < 0x20; }, '?');
  return name;
}

Json parsed(const ReportFile& file) {
  constexpr const char* kMust = "{}: must be JSON that this program wrote: {}";
  Json json;
  try {
    json = Json::parse(file.json);
  } catch (const Json::exception&) {
    throw InputError(fmt::format(kMust, one_line(file.name), "it is no JSON, or cut off"));
  }
  const auto schema = json.is_object() ? json.find("schema") : json.end();
  if (schema == json.end() || !schema->is_string() || !schema->get<std::string>().starts_with("shardwright."))
    throw InputError(fmt::format(kMust, one_line(file.name), "it has no 'schema: shardwright...'"));
  return json;
}

/// Of many plans these stay whole.
constexpr std::size_t kWholePlans = 100;

/// What the page shows of every plan; the rest of it is shown of the first alone.
bool is_shown_of_all(const std::string& key) {
  static const std::set<std::string> left_out = {"layout_text",   "layout_assumed",   "sources",
                                                 "communication", "memory_per_stage", "idle_seconds_per_stage",
                                                 "overlap"};
  return !left_out.contains(key);
}

/// The values of objects that are alike, by their path: "predicted.mfu".
class Columns {
 public:
  void add(const Json& object) {
    put(object, "");
    ++rows_;
    for (auto& [path, values] : values_) values.resize(rows_);  // null where it has none
  }
  Json json() && {
    Json all = {{"plans", rows_}, {"same", Json::object()}, {"values", Json::object()}};
    for (auto& [path, values] : values_) {
      const bool same = std::all_of(values.begin(), values.end(), [&](const Json& v) { return v == values[0]; });
      all[same ? "same" : "values"][path] = same ? std::move(values[0]) : Json(std::move(values));
    }
    return all;
  }

 private:
  void put(const Json& object, const std::string& path) {
    for (const auto& [key, value] : object.items()) {
      if (!is_shown_of_all(key)) continue;
      if (value.is_object()) {
        put(value, path + key + ".");
        continue;
      }
      const auto [at, is_new] = index_.try_emplace(path + key, values_.size());
      if (is_new) values_.emplace_back(path + key, std::vector<Json>(rows_));
      values_[at->second].second.push_back(value);
    }
  }

  std::size_t rows_ = 0;
  std::vector<std::pair<std::string, std::vector<Json>>> values_;
  std::map<std::string, std::size_t> index_;
};

/// A file as the page has it. Of ten thousand plans most of a page would be the same words again and again, and what
/// they list by stage: those behind the first hundred are put by columns (data.js).
std::string embedded(const ReportFile& file) {
  Json json = parsed(file);
  const auto plans = json.find("plans");
  const bool many = plans != json.end() && plans->is_array() && plans->size() > kWholePlans &&
                    std::all_of(plans->begin(), plans->end(), [](const Json& plan) { return plan.is_object(); });
  if (!many) return text_of(json);
  Columns columns;
  for (std::size_t i = kWholePlans; i < plans->size(); ++i) columns.add((*plans)[i]);
  plans->erase(plans->begin() + kWholePlans, plans->end());
  json["plans_behind"] = std::move(columns).json();
  json["page_left_out"] = fmt::format(
      "of plans behind the first {}, what they list by stage and by parallelism, and what was filled in", kWholePlans);
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
