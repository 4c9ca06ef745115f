#include <fmt/format.h>

#include <chrono>
#include <map>

#include "hardware/input_error.h"
#include "hardware/input_file.h"
#include "planner/cli/commands.h"
#include "planner/cli/html_option.h"
#include "planner/cli/line_file.h"
#include "planner/cli/options.h"
#include "planner/cli/output.h"
#include "planner/search/sweep.h"
#include "reports/sweep_lines.h"

namespace shardwright {
namespace {

constexpr std::size_t kLargestSweep = std::size_t{1} << 30;

SweepFormat format_of(const std::string& path) {
  if (path.ends_with(".csv")) return SweepFormat::csv;
  if (path.ends_with(".json")) return SweepFormat::json;
  throw InputError(fmt::format("--out: must end with .csv or .json, got '{}'", shown(path)));
}

/// What an earlier run of the same sweep has left.
struct Done {
  std::size_t points = 0, fitting = 0;
  bool head = false, foot = false;
};

[[noreturn]] void not_of_this_sweep(const std::string& path, std::size_t line) {
  throw InputError(
      fmt::format("{}:{}: is not a line of this sweep: remove the file, or name another with --out", path, line));
}

/// What the next line begins with.
std::string next_line(const Done& done, const Grid& grid, SweepFormat format) {
  if (!done.head) return sweep_head(format);
  return done.points < grid.points() ? sweep_line_start(format, point_at(grid, done.points)) : sweep_foot(format);
}

/// Throws InputError at the first line that is not what this grid has there, torn or whole.
Done done_of(const LineFile& file, const Grid& grid, SweepFormat format, const std::string& path) {
  const std::string& text = file.text();
  Done done;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t end = text.find('\n', begin) + 1;
    const std::string line = text.substr(begin, end - begin);
    begin = end;
    const bool all = done.points == grid.points();
    if (number == 0 && line == sweep_head(format)) {
      done.head = true;
    } else if (number > 0 && !all && line.starts_with(sweep_line_start(format, point_at(grid, done.points)))) {
      done.fitting += sweep_line_fits(format, point_at(grid, done.points), line);
      ++done.points;
    } else if (number > 0 && all && !done.foot && line == sweep_foot(format)) {
      done.foot = true;
    } else {
      not_of_this_sweep(path, number + 1);
    }
  }
  const std::string next = next_line(done, grid, format);
  const bool of_point = done.head && done.points < grid.points() && file.torn().starts_with(next);
  if (!of_point && !next.starts_with(file.torn())) not_of_this_sweep(path, number + 1);
  return done;
}

/// "12 of 240 points, about 3 min left"
std::string progress_text(std::size_t done, std::size_t all, std::size_t this_time, double seconds) {
  std::string text =
      fmt::format("{} of {} points", grouped(static_cast<std::int64_t>(done)), grouped(static_cast<std::int64_t>(all)));
  if (this_time == 0) return text;
  const double left = seconds / static_cast<double>(this_time) * static_cast<double>(all - done);
  return text + (left < 90     ? fmt::format(", about {:.0f} s left", left)
                 : left < 5400 ? fmt::format(", about {:.0f} min left", left / 60)
                               : fmt::format(", about {:.1f} h left", left / 3600));
}

class Sweep {
 public:
  Sweep(const Grid& grid, SweepFormat format, int threads) : grid_(grid), format_(format), threads_(threads) {}

  /// Continues behind what is done; how many points have a plan in the end.
  std::size_t run(LineFile& file, Done done) {
    file.drop_torn();
    if (!done.head) file.append(sweep_head(format_));
    const auto start = std::chrono::steady_clock::now();
    const std::size_t all = grid_.points(), before = done.points;
    for (; done.points < all; ++done.points) {
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      progress(progress_text(done.points, all, done.points - before, seconds));
      const SweepRow row = answer(point_at(grid_, done.points));
      done.fitting += row.best.has_value();
      file.append(sweep_line(format_, row, done.points + 1 == all));
    }
    progress("");
    if (!done.foot && !sweep_foot(format_).empty()) file.append(sweep_foot(format_));
    return done.fitting;
  }

 private:
  SweepRow answer(const GridPoint& point) {
    auto model = models_.find(point.model);
    if (model == models_.end()) model = models_.emplace(point.model, find_model(point.model)).first;
    auto machine = machines_.find(point.machine);
    if (machine == machines_.end()) {
      machine = machines_.emplace(point.machine, find_machine(point.machine)).first;
      machine->second.measured = read_all_measurements({{point.model, point.machine}, {}}, machine->second);
    }
    return plan_point(point, model->second, machine->second, threads_);
  }

  const Grid& grid_;
  SweepFormat format_;
  int threads_;
  std::map<std::string, Model> models_;
  std::map<std::string, Machine> machines_;
};

int run(const Arguments& arguments) {
  const auto out = arguments.find("--out");
  if (!out) throw InputError("--out: is missing: the file to write, e.g. --out sweep.csv");
  const SweepFormat format = format_of(*out);
  if (arguments.has("--html") && format != SweepFormat::json)
    throw InputError(fmt::format("--html: shows JSON: --out must end with .json, got '{}'", shown(*out)));
  check_html(arguments);
  const int threads = read_threads(arguments);
  const Grid grid = read_grid(YamlCursor::open(arguments.positionals[0]));
  LineFile file(*out);
  const Done done = done_of(file, grid, format, *out);
  const std::size_t fitting = Sweep(grid, format, threads).run(file, done);
  if (arguments.has("--html")) write_html(arguments, {{*out, read_file(*out, kLargestSweep)}});
  write_stdout(fmt::format("{}: {} points, {} with a plan\n", *out, grouped(static_cast<std::int64_t>(grid.points())),
                           grouped(static_cast<std::int64_t>(fitting))));
  return fitting > 0 ? kDone : kNothingFits;
}

}  // namespace

Command sweep_command() {
  return {"sweep",
          "the best plan of every model on every machine of a grid",
          {"sweep grid.yaml --out sweep.csv    # an interrupted one goes on",
           "sweep grid.yaml --out sweep.json   # where grid.yaml has:\n"
           "    models: [llama-3.1-8b, llama-3.1-70b]\n"
           "    machines: [h100-sxm-80gb, a100-sxm-80gb]\n"
           "    gpus: [64, 128]\n"
           "    sequence_lengths: [4096, 8192]\n"
           "    global_batches: [512]\n"
           "    precisions: [bf16]      # if not given\n"
           "    engines: [generic]      # if not given"},
          {{"GRID.yaml", "lists of what to combine", true, false, Completes::files}},
          {{"--out", "FILE", "one line a point: .csv or .json", Completes::files}, html_option(), threads_option()},
          run};
}

}  // namespace shardwright
