#include "hardware/input_error.h"

#include <fmt/format.h>

#include <algorithm>

namespace shardwright {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

/// Insertions, deletions, substitutions and swaps of neighbours between two words; case counts for nothing.
/// The "optimal string alignment" form of Damerau's distance (Communications of the ACM 7, 1964): no part is edited
/// twice.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const bool same = lower(a[i - 1]) == lower(b[j - 1]);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]);
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

std::string_view nearest_spelling(std::string_view word, const std::vector<std::string_view>& candidates) {
  const std::size_t limit = word.size() / 3;
  std::string_view best;
  std::size_t best_distance = limit + 1;
  for (std::string_view candidate : candidates) {
    // The lengths alone are a lower bound; it also keeps a word of megabytes from costing a table of that size.
    if (candidate.size() > word.size() + limit || word.size() > candidate.size() + limit) continue;
    if (word.size() > 1000) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string_view>& candidates) {
  const std::string_view nearest = nearest_spelling(word, candidates);
  return nearest.empty() ? "" : " (did you mean '" + std::string(nearest) + "'?)";
}

std::string shown_plainly(std::string_view text) {
  std::string shown(text);
  for (char& c : shown) {
    if (c < 0x20 || c > 0x7E) c = '?';
  }
  return shown;
}

void fail_in_text(std::string_view what, std::string_view text, std::size_t at, std::string_view message) {
  throw InputError(fmt::format("{}:1:{}: {}\n{}\n{}^", what, at + 1, shown_plainly(message), shown_plainly(text),
                               std::string(at, ' ')));
}

}  // namespace shardwright
