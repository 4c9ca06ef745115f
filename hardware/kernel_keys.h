#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/kernel_spec.h"

namespace shardwright {

/// A question as keys and numbers: what its text, a column of a table and an order of questions are made from. Each
/// family has its keys, in the order of the text; each key has one number (a group of ranks has eight), in "slots".
///   count    the number itself
///   flag     0 or 1
///   word     its index in `words`; -1 where nothing is stated
///   share    a fraction from 0 to 1: the bits of the double, which order as it does
///   routing  0 = balanced, else the bits of the power law's exponent
///   group    size and stride of each run of ranks; 0 and 0 where there is none
enum class KeyType { count, flag, word, share, routing, group };

/// What a key is when it is not given.
enum class Unless { required, constant, same_as, result_of };

struct KernelKey {
  std::string_view name = {};
  KeyType type = KeyType::count;
  Unless unless = Unless::required;
  std::int64_t constant = 0;  // Unless::constant
  int other = 0;              // slot of same_as, or of the type of result_of
  std::int64_t low = 1;       // of a count
  std::vector<std::string_view> words = {};
  int slot = 0;

  int slots() const { return type == KeyType::group ? 2 * RankGroup::kMaxFactors : 1; }
};

constexpr int kMostSlots = 20;
using KernelSlots = std::array<std::int64_t, kMostSlots>;

/// Keys of a family.
const std::vector<KernelKey>& kernel_keys(KernelFamily family);
/// nullptr when the family has no such key.
const KernelKey* find_key(KernelFamily family, std::string_view name);
int slot_count(KernelFamily family);

/// Slots in the order that tables are sorted by: words and flags first, then sizes, at last the size along which times
/// are read off (rows of a GEMM, tokens, keys, bytes).
const std::vector<int>& sort_order(KernelFamily family);

KernelSlots to_slots(const KernelSpec& spec);
KernelSpec from_slots(KernelFamily family, const KernelSlots& slots);

/// What `key` is when it is not given; needs the slots before it. Not of required keys, and of groups always one rank.
std::int64_t default_of(const KernelKey& key, const KernelSlots& slots);

/// Reads a value into `slots` (key.slots() of them); false when it cannot be.
bool read_value(const KernelKey& key, std::string_view text, std::int64_t* slots);
/// What read_value wanted: "a whole number between 1 and 9007199254740992".
std::string value_needed(const KernelKey& key, std::string_view text);
/// Appends the value as read_value reads it. The slots must be a value's.
void write_value(const KernelKey& key, const std::int64_t* slots, std::string& text);

}  // namespace shardwright
