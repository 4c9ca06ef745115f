// Do the sources obey the order of the house? Each rule is a function from text to complaints, so that the first half
// of the tests can show it fails on a made-up offender before the second half asks it about the real files.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;
using Complaints = std::vector<std::string>;

// The rules -----------------------------------------------------------------------------------------------------------

/// Which rooms a room may include and link, besides itself. planner/cli is a room of its own: it and tests see
/// everything.
const std::map<std::string, Names> kMaySee = {
    {"hardware", {}},
    {"models", {"hardware"}},
    {"planner", {"hardware", "models"}},
    {"kernels", {"hardware"}},
    {"profiler", {"hardware", "models", "planner", "kernels"}},
    {"reports", {"hardware", "models", "planner", "profiler"}},
    {"planner/cli", {"hardware", "models", "planner", "kernels", "profiler", "reports"}},
    {"tests", {"hardware", "models", "planner", "planner/cli", "kernels", "profiler", "reports"}},
};

/// The planner and what it is made of have no device, no other process and no clock.
const Names kPureRooms = {"hardware", "models", "planner"};
const std::regex kImpureHeader(R"((cuda|cublas|cudnn|nccl|nvml|dnnl|mpi|openmpi/).*|chrono|ctime|time\.h|sys/time\.h)");

const Names kTopLevel = {"CMakeLists.txt", "CMakePresets.json", "LICENSE",  "README.md",
                         "quickstart",     "run-tests",         ".ci",      ".clang-format",
                         ".gitignore",     "planner",           "profiler", "models",
                         "hardware",       "kernels",           "reports",  "tests"};

/// First folders of paths that exist on one person's machine only.
const Names kPrivateFolders = {"home", "root", "work", "Users"};

// The checks ----------------------------------------------------------------------------------------------------------

/// A file's text; its path is relative to the top of the project.
struct Source {
  std::string path, text;
};

/// "planner/cli/main.cc" -> "planner/cli", "planner/cost/x.h" -> "planner"; "" for what is in no room.
std::string room_of(const std::string& path) {
  std::string room;
  for (const auto& [name, seen] : kMaySee)
    if (path.starts_with(name + "/") && name.size() > room.size()) room = name;
  return room;
}

/// "shardwright_planner" -> "planner", "shardwright_cli" -> "planner/cli"; "" for targets of no room.
std::string room_of_target(const std::string& target) {
  if (target == "shardwright" || target == "shardwright_cli" || target == "shardwright_planner_cli")
    return "planner/cli";
  const std::string prefix = "shardwright_";
  if (!target.starts_with(prefix)) return "";
  const std::string first_word = target.substr(prefix.size(), target.find('_', prefix.size()) - prefix.size());
  return kMaySee.contains(first_word) ? first_word : "";
}

bool may_see(const std::string& room, const std::string& other) {
  return room == other || kMaySee.at(room).contains(other);
}

struct Include {
  bool quoted = false;
  std::string path;
};

std::vector<Include> includes_of(const std::string& text) {
  static const std::regex line(R"((?:^|\n)[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]*)[>"])");
  std::vector<Include> result;
  for (std::sregex_iterator match(text.begin(), text.end(), line), end; match != end; ++match)
    result.push_back({(*match)[1] == "\"", (*match)[2]});
  return result;
}

Complaints wrong_includes(const Source& source) {
  Complaints complaints;
  const std::string room = room_of(source.path);
  for (const Include& include : includes_of(source.text)) {
    if (!include.quoted) continue;
    const std::string other = room_of(include.path);
    if (other.empty())
      complaints.push_back(source.path + ": \"" + include.path + "\" does not start with a room");
    else if (!may_see(room, other))
      complaints.push_back(source.path + ": " + room + " must not include " + other + " (\"" + include.path + "\")");
  }
  return complaints;
}

Complaints impure_includes(const Source& source) {
  Complaints complaints;
  if (!kPureRooms.contains(room_of(source.path))) return complaints;
  for (const Include& include : includes_of(source.text))
    if (std::regex_match(include.path, kImpureHeader))
      complaints.push_back(source.path + ": " + include.path + " is a device, another process or a clock");
  return complaints;
}

/// Links of the rooms' targets in one CMakeLists.txt.
Complaints wrong_links(const Source& cmake) {
  static const std::regex command(R"(target_link_libraries\s*\(([^)]*)\))");
  Complaints complaints;
  const std::string text = std::regex_replace(cmake.text, std::regex("#[^\n]*"), "");
  for (std::sregex_iterator match(text.begin(), text.end(), command), end; match != end; ++match) {
    std::istringstream words((*match)[1]);
    std::string target, linked;
    words >> target;
    // A room's test is no part of the room: it may link what it compares with.
    const std::string room = target.ends_with("_test") ? "tests" : room_of_target(target);
    if (room.empty()) continue;
    while (words >> linked)
      if (const std::string other = room_of_target(linked); !other.empty() && !may_see(room, other))
        complaints.push_back(cmake.path + ": " + target + " must not link " + linked);
  }
  return complaints;
}

Complaints private_paths(const Source& source) {
  Complaints complaints;
  for (const std::string& folder : kPrivateFolders) {
    const std::regex path("(^|[^A-Za-z0-9_.}/-])/" + folder + "/[A-Za-z0-9_.-]*");
    std::istringstream lines(source.text);
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number)
      if (std::smatch match; std::regex_search(line, match, path))
        complaints.push_back(source.path + ":" + std::to_string(number) + ": a path of one machine: " + match.str());
  }
  return complaints;
}

/// `entries` of the top folder that are neither of the house nor named by a `/name` line of .gitignore.
Complaints strangers_at_the_top(const Names& entries, const std::string& gitignore) {
  Names known = kTopLevel;
  known.insert(".git");
  std::istringstream lines(gitignore);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("/")) known.insert(line.substr(1, line.find('/', 1) - 1));
  Complaints complaints;
  std::ranges::set_difference(entries, known, std::back_inserter(complaints));
  return complaints;
}

/// A source that no CMakeLists.txt names is never built, and a test never run. `cmake` is the nearest one above it.
bool is_built(const Source& cmake, const std::string& path) {
  const std::string name = fs::path(path).lexically_relative(fs::path(cmake.path).parent_path()).generic_string();
  const std::string text = std::regex_replace(cmake.text, std::regex("#[^\n]*"), "");
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const auto delimits = [](char c) { return std::string(" \t\n\"()").find(c) != std::string::npos; };
    const std::size_t end = at + name.size();
    if ((at == 0 || delimits(text[at - 1])) && (end == text.size() || delimits(text[end]))) return true;
  }
  return false;
}

// The files -----------------------------------------------------------------------------------------------------------

const fs::path kTop = SHARDWRIGHT_SOURCE_DIR;

std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

/// Every text file of the house whose name passes `wanted`, sorted by path.
std::vector<Source> sources(const std::function<bool(const fs::path&)>& wanted) {
  std::vector<Source> result;
  const auto add = [&](const fs::path& path) {
    if (!fs::is_regular_file(path) || !wanted(path)) return;
    std::string text = read(path);
    if (text.find('\0') == std::string::npos)
      result.push_back({path.lexically_relative(kTop).generic_string(), std::move(text)});
  };
  for (const std::string& entry : kTopLevel) {
    const fs::path path = kTop / entry;
    add(path);
    if (fs::is_directory(path))
      for (const fs::directory_entry& below : fs::recursive_directory_iterator(path)) add(below.path());
  }
  std::ranges::sort(result, {}, &Source::path);
  return result;
}

bool is_cpp(const fs::path& path) { return Names{".h", ".cc", ".cu", ".cuh"}.contains(path.extension().string()); }
bool is_cmake(const fs::path& path) { return path.filename() == "CMakeLists.txt"; }

/// All complaints of `check` about `files`, one a line, for a readable failure.
template <typename Check>
std::string all_complaints(const std::vector<Source>& files, Check check) {
  std::string result;
  for (const Source& file : files)
    for (const std::string& complaint : check(file)) result += complaint + "\n";
  return result;
}

// Each check can fail -------------------------------------------------------------------------------------------------

TEST_CASE("an include against the order of the rooms is found") {
  CHECK(wrong_includes({"hardware/a.cc", "#pragma once\n  #  include \"planner/layout.h\"\n"}) ==
        Complaints{"hardware/a.cc: hardware must not include planner (\"planner/layout.h\")"});
  CHECK(wrong_includes({"kernels/cpu/a.cc", "#include \"models/model.h\""}) ==
        Complaints{"kernels/cpu/a.cc: kernels must not include models (\"models/model.h\")"});
  CHECK(wrong_includes({"reports/a.h", "#include \"kernels/backend.h\""}) ==
        Complaints{"reports/a.h: reports must not include kernels (\"kernels/backend.h\")"});
  CHECK(wrong_includes({"planner/cost/a.h", "#include \"planner/cli/plan_command.h\""}) ==
        Complaints{"planner/cost/a.h: planner must not include planner/cli (\"planner/cli/plan_command.h\")"});
  CHECK(wrong_includes({"planner/a.cc", "#include \"tests/support/measured.h\""}) ==
        Complaints{"planner/a.cc: planner must not include tests (\"tests/support/measured.h\")"});
  CHECK(wrong_includes({"planner/a.cc", "#include \"layout.h\""}) ==
        Complaints{"planner/a.cc: \"layout.h\" does not start with a room"});
}

TEST_CASE("an include along the order of the rooms is allowed") {
  CHECK(
      wrong_includes({"models/a.h", "#include <string>\n#include \"hardware/x.h\"\n#include \"models/y.h\""}).empty());
  CHECK(wrong_includes({"planner/cli/main.cc", "#include \"reports/x.h\"\n#include \"kernels/y.h\""}).empty());
  CHECK(wrong_includes({"profiler/a.cc", "#include \"planner/x.h\"\n#include \"kernels/y.h\""}).empty());
  CHECK(wrong_includes({"tests/reports/a_test.cc", "#include \"planner/cli/x.h\""}).empty());
  CHECK(wrong_includes({"hardware/a.h", "// not #include \"planner/layout.h\""}).empty());
}

TEST_CASE("a device, another process or a clock in the planner is found, but not in its cli") {
  for (const std::string header : {"cuda_runtime.h", "mpi.h", "nccl.h", "chrono", "ctime", "sys/time.h"}) {
    CAPTURE(header);
    const std::string line = "#include <" + header + ">\n";
    CHECK(impure_includes({"planner/search/search.cc", line}) ==
          Complaints{"planner/search/search.cc: " + header + " is a device, another process or a clock"});
    CHECK(impure_includes({"hardware/machine.h", line}).size() == 1);
    CHECK(impure_includes({"planner/cli/main.cc", line}).empty());
    CHECK(impure_includes({"profiler/timing.cc", line}).empty());
  }
  CHECK(impure_includes({"planner/search/search.cc", "#include <string>\n#include \"hardware/quantities.h\""}).empty());
}

TEST_CASE("a link against the order of the rooms is found") {
  CHECK(wrong_links({"models/CMakeLists.txt",
                     "target_link_libraries(shardwright_models\n  PUBLIC shardwright_hardware "
                     "shardwright_planner)"}) ==
        Complaints{"models/CMakeLists.txt: shardwright_models must not link shardwright_planner"});
  CHECK(wrong_links({"planner/CMakeLists.txt", "target_link_libraries(shardwright_planner PRIVATE shardwright_cli)"}) ==
        Complaints{"planner/CMakeLists.txt: shardwright_planner must not link shardwright_cli"});
  CHECK(wrong_links(
            {"kernels/CMakeLists.txt", "target_link_libraries(shardwright_kernels_cuda PUBLIC shardwright_planner)"}) ==
        Complaints{"kernels/CMakeLists.txt: shardwright_kernels_cuda must not link shardwright_planner"});
}

TEST_CASE("a link along the order of the rooms is allowed") {
  CHECK(wrong_links({"planner/CMakeLists.txt",
                     "target_link_libraries(shardwright_planner PUBLIC shardwright_models "
                     "shardwright_options PRIVATE fmt::fmt)\n# shardwright_reports"})
            .empty());
  CHECK(wrong_links({"planner/cli/CMakeLists.txt", "target_link_libraries(shardwright PRIVATE shardwright_reports)"})
            .empty());
}

TEST_CASE("a path of one machine is found, a relative or a web path is not") {
  for (const std::string& folder : kPrivateFolders) {
    CAPTURE(folder);
    CHECK(private_paths({"a.cc", "int a;\nopen(\"/" + folder + "/ann/x\");"}) ==
          Complaints{"a.cc:2: a path of one machine: \"/" + folder + "/ann"});
    CHECK(private_paths({"README.md", "/" + folder + "/x"}).size() == 1);
    CHECK(
        private_paths({"a.cc", "../" + folder + "/x, some/" + folder + "/x, https://a.org/" + folder + "/x"}).empty());
  }
}

TEST_CASE("a stranger at the top is found, what git ignores is not") {
  CHECK(strangers_at_the_top({"LICENSE", "tests", "utils", "notes.md"}, "") == Complaints{"notes.md", "utils"});
  CHECK(strangers_at_the_top({"LICENSE", ".git", "build", "x.json"}, "/build/\n/x.json\n").empty());
  CHECK(strangers_at_the_top({"build"}, "build\n") == Complaints{"build"});
}

TEST_CASE("a source that its CMakeLists does not name is found") {
  const Source cmake{"planner/CMakeLists.txt", "add_library(shardwright_planner layout.cc cost/gemm.cc) # search.cc"};
  CHECK(is_built(cmake, "planner/layout.cc"));
  CHECK(is_built(cmake, "planner/cost/gemm.cc"));
  CHECK_FALSE(is_built(cmake, "planner/search/search.cc"));
  CHECK_FALSE(is_built(cmake, "planner/gemm.cc"));
  CHECK_FALSE(is_built(cmake, "planner/out.cc"));
}

// The real files ------------------------------------------------------------------------------------------------------

TEST_CASE("every include obeys the order of the rooms") {
  const std::vector<Source> files = sources(is_cpp);
  REQUIRE(files.size() > 10);
  CHECK(all_complaints(files, wrong_includes) == "");
}

TEST_CASE("the planner and the rooms below it include no device, no other process and no clock") {
  CHECK(all_complaints(sources(is_cpp), impure_includes) == "");
}

TEST_CASE("every link line obeys the order of the rooms") {
  const std::vector<Source> files = sources(is_cmake);
  for (const std::string room :
       {"hardware", "models", "planner", "kernels", "profiler", "reports", "planner/cli", "tests"})
    CHECK_MESSAGE(std::ranges::find(files, room + "/CMakeLists.txt", &Source::path) != files.end(), room);
  CHECK(all_complaints(files, wrong_links) == "");
}

TEST_CASE("no file names a path of one machine") {
  CHECK(all_complaints(sources([](const fs::path&) { return true; }), private_paths) == "");
}

TEST_CASE("the top level holds the rooms and nothing else") {
  Names entries;
  for (const fs::directory_entry& entry : fs::directory_iterator(kTop))
    entries.insert(entry.path().filename().string());
  CHECK(strangers_at_the_top(entries, read(kTop / ".gitignore")) == Complaints{});
  for (const std::string& entry : kTopLevel) CHECK_MESSAGE(entries.contains(entry), entry);
}

TEST_CASE("every source is named by the nearest CMakeLists above it") {
  for (const Source& source : sources([](const fs::path& path) { return is_cpp(path) && path.extension() != ".h"; })) {
    fs::path folder = (kTop / source.path).parent_path();
    while (!fs::exists(folder / "CMakeLists.txt")) folder = folder.parent_path();
    const fs::path cmake = folder / "CMakeLists.txt";
    CHECK_MESSAGE(is_built({cmake.lexically_relative(kTop).generic_string(), read(cmake)}, source.path), source.path);
  }
}

}  // namespace
