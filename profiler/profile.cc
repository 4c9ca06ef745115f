#include "profiler/profile.h"

#include <fmt/format.h>

#include <algorithm>

#include "hardware/input_error.h"

namespace shardwright {

std::string told_by_first(Communicator& ranks, std::string text) {
  auto size = static_cast<std::int64_t>(text.size());
  ranks.broadcast({&size, 1, Element::int64}, 0);
  text.resize(static_cast<std::size_t>(size));
  if (size > 0) ranks.broadcast({text.data(), size, Element::byte}, 0);
  return text;
}

std::vector<KernelSpec> read_kernel_list(const std::string& text, const std::string& file) {
  std::vector<KernelSpec> list;
  std::set<std::string> known;
  int number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    const KernelSpec spec = parse_kernel_spec(line, fmt::format("{}:{}", file, number));
    if (known.insert(to_string(spec)).second) list.push_back(spec);
  }
  return list;
}

bool profile_kernels(const std::vector<KernelSpec>& list, Measurer& measurer, Backend& backend, Communicator& ranks,
                     Clock& clock, const ProfileListener& listener) {
  std::string text;
  for (const KernelSpec& spec : list) text += to_string(spec) + "\n";
  const std::vector<KernelSpec> shared = read_kernel_list(told_by_first(ranks, text), "list");
  const bool first = ranks.rank() == 0;
  const Seconds start = clock.now();
  const std::size_t all = shared.size();
  std::vector<Seconds> calm(all);  // when each was measured
  std::vector<bool> again(all);    // others had the machine
  const auto measure = [&](std::size_t i, std::size_t done) {
    if (first) listener.progress({done, all, clock.now() - start});
    const JournalRow row = {shared[i], measurer.measure(shared[i]), backend.library(family_of(shared[i]))};
    const auto* const failed = std::get_if<NotMeasured>(&row.answer);
    again[i] = failed && failed->others;
    calm[i] = measurer.calm();
    if (first) listener.row(row);
    std::int64_t stop = first && listener.stop();
    ranks.all_reduce({&stop, 1, Element::int64}, Reduction::max);
    return stop == 0;
  };
  for (std::size_t i = 0; i < all; ++i)
    if (!measure(i, i)) return false;
  // Once more what was measured before the machine was seen calm, or never could be. Every rank knows the same times.
  for (std::size_t i = 0; i < all; ++i)
    if ((again[i] || !measurer.in_calm(calm[i])) && !measure(i, all)) return false;
  return true;
}

std::vector<KernelSpec> general_grid(DataType type, int ranks) {
  // A core does some tens of products a nanosecond, and every kernel runs ten times: larger ones are as efficient.
  constexpr std::int64_t kMostProducts = std::int64_t{1} << 30, kMostScores = std::int64_t{1} << 22;
  std::vector<KernelSpec> list;
  for (const std::int64_t m : {1, 16, 128, 512, 2048})
    for (const std::int64_t n : {128, 256, 512, 1024, 4096})
      for (const std::int64_t k : {128, 256, 512, 1024, 4096})
        if (m * n * k <= kMostProducts) list.push_back(GemmSpec{.m = m, .n = n, .k = k, .type = type});
  // Gradients of weights: as many rows are summed as there are tokens.
  for (const std::int64_t n : {256, 512, 1024})
    for (const std::int64_t m : {256, 512, 1024})
      for (const std::int64_t k : {128, 512, 2048})
        list.push_back(GemmSpec{.m = m, .n = n, .k = k, .type = type, .accumulate = true});
  for (const std::int64_t rows : {16, 64, 256})
    for (const std::int64_t width : {256, 512})
      list.push_back(GroupedGemmSpec{.groups = 4, .m_per_group = rows, .n = width, .k = 256, .type = type});
  for (const std::int64_t length : {64, 128, 256, 512, 1024})
    for (const std::int64_t heads : {2, 4, 8})
      for (const std::int64_t head_dim : {64, 128})
        for (const bool backward : {false, true})
          if (heads * length * length <= kMostScores)
            list.push_back(AttentionSpec{.heads = heads,
                                         .kv_heads = heads,
                                         .query_length = length,
                                         .key_length = length,
                                         .head_dim = head_dim,
                                         .value_dim = head_dim,
                                         .backward = backward,
                                         .type = type});
  for (const std::int64_t keys : {128, 512, 2048, 8192})
    list.push_back(AttentionSpec{.heads = 8,
                                 .kv_heads = 2,
                                 .query_length = 1,
                                 .key_length = keys,
                                 .head_dim = 64,
                                 .value_dim = 64,
                                 .causal = false,
                                 .type = type});
  constexpr std::int64_t kLargest = std::int64_t{64} << 20;
  for (std::int64_t bytes = 1024; bytes <= kLargest; bytes *= 4) list.push_back(MemorySpec{{bytes}});
  for (int pass = 1; pass < kMemoryPasses; ++pass) {
    const std::int64_t arrays = arrays_of(static_cast<MemoryPass>(pass));
    for (std::int64_t elements = 1 << 12; elements <= 1 << 22; elements *= 8)
      list.push_back(MemorySpec{{4 * arrays * elements}, static_cast<MemoryPass>(pass)});
  }
  for (int group = 2; group <= ranks; ++group) {
    if (ranks % group != 0) continue;
    for (int kind = 0; kind < 5; ++kind) {
      if (static_cast<CollectiveKind>(kind) == CollectiveKind::send_recv && group != 2) continue;
      for (std::int64_t bytes = 1024; bytes <= kLargest / 4; bytes *= 4) {
        CollectiveSpec spec = {static_cast<CollectiveKind>(kind), {bytes}};
        spec.group.add(group, 1);
        list.push_back(spec);
      }
    }
  }
  return list;
}

}  // namespace shardwright
