#include "profiler/journal.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "hardware/input_error.h"

namespace shardwright {
namespace {

constexpr std::string_view kHead = "# shardwright profile: kernel, seconds, relative error, rounds, void rounds, who\n";

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find('\t', begin), line.size());
    fields.push_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return fields;
}

template <typename Number>
std::optional<Number> number(const std::string& text) {
  Number value = {};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

std::optional<JournalRow> row_of(const std::string& line, const std::string& where) {
  const std::vector<std::string> fields = fields_of(line);
  if (fields.size() == 3 && fields[1] == "failed")
    return JournalRow{parse_kernel_spec(fields[0], where), NotMeasured{fields[2]}, ""};
  if (fields.size() != 6) return std::nullopt;
  const auto seconds = number<double>(fields[1]), error = number<double>(fields[2]);
  const auto rounds = number<int>(fields[3]), void_rounds = number<int>(fields[4]);
  if (!seconds || !(*seconds > 0) || !error || !rounds || !void_rounds) return std::nullopt;
  return JournalRow{parse_kernel_spec(fields[0], where), MeasuredKernel{{*seconds}, *error, *rounds, *void_rounds},
                    fields[5]};
}

}  // namespace

std::string journal_head() { return std::string(kHead); }

std::string journal_line(const JournalRow& row) {
  if (const auto* failed = std::get_if<NotMeasured>(&row.answer))
    return fmt::format("{}\tfailed\t{}\n", to_string(row.spec), failed->reason);
  const MeasuredKernel& m = std::get<MeasuredKernel>(row.answer);
  return fmt::format("{}\t{:.6g}\t{:.3g}\t{}\t{}\t{}\n", to_string(row.spec), m.time.value, m.relative_error, m.rounds,
                     m.void_rounds, row.kernel);
}

std::map<std::string, JournalRow> read_journal(const std::string& text, const std::string& file) {
  std::map<std::string, JournalRow> rows;
  int line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const std::string where = fmt::format("{}:{}", file, ++line_number);
    if (line_number == 1 && line + "\n" == kHead) continue;
    const auto row = line_number == 1 ? std::nullopt : row_of(line, where);
    if (!row) throw InputError(fmt::format("{}: is not a line of a profile", where));
    rows.insert_or_assign(to_string(row->spec), *row);
  }
  return rows;
}

Measurements tables_of(const std::map<std::string, JournalRow>& rows, const std::string& framework) {
  std::vector<KernelTable> tables;
  for (int i = 0; i < kKernelFamilies; ++i) tables.emplace_back(static_cast<KernelFamily>(i));
  for (const auto& [text, row] : rows)
    if (const auto* measured = std::get_if<MeasuredKernel>(&row.answer))
      tables[row.spec.index()].add(to_slots(row.spec), measured->time, row.kernel, framework);
  Measurements all;
  for (KernelTable& table : tables)
    if (table.size() > 0) all.add(std::move(table));
  return all;
}

}  // namespace shardwright
