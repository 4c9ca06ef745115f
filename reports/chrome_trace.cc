#include "reports/chrome_trace.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

namespace shardwright {
namespace {

/// One line of the list of events. nlohmann writes the strings, which may hold anything.
std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}
std::string name_event(const char* what, std::size_t process, std::size_t thread, const std::string& name) {
  return fmt::format(R"({{"ph":"M","name":"{}","pid":{},"tid":{},"args":{{"name":{}}}}})", what, process, thread,
                     quoted(name));
}

}  // namespace

std::string chrome_trace(const std::vector<TraceSpan>& spans) {
  std::map<std::string, std::size_t> processes;
  std::map<std::pair<std::size_t, std::string>, std::size_t> threads;
  std::vector<std::string> events;
  for (const TraceSpan& s : spans) {
    const auto [process, new_process] = processes.try_emplace(s.device, processes.size());
    if (new_process) events.push_back(name_event("process_name", process->second, 0, s.device));
    const auto [thread, new_thread] = threads.try_emplace({process->second, s.stream}, threads.size());
    if (new_thread) events.push_back(name_event("thread_name", process->second, thread->second, s.stream));
    events.push_back(fmt::format(R"({{"ph":"X","name":{},"cat":{},"pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f}}})",
                                 quoted(s.name), quoted(s.kind), process->second, thread->second, s.start.value * 1e6,
                                 (s.end - s.start).value * 1e6));
  }
  return fmt::format("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", fmt::join(events, ",\n"));
}

}  // namespace shardwright
