#include "hardware/input_error.h"

#include <doctest/doctest.h>

using namespace shardwright;

TEST_CASE("the nearest spelling is one edit away: a letter more, less, other, or two swapped") {
  const std::vector<std::string_view> keys = {"hidden_size", "num_layers", "vocab_size"};
  CHECK(nearest_spelling("hiden_size", keys) == "hidden_size");
  CHECK(nearest_spelling("hiddden_size", keys) == "hidden_size");
  CHECK(nearest_spelling("hidden_sise", keys) == "hidden_size");
  CHECK(nearest_spelling("ihdden_size", keys) == "hidden_size");
}

TEST_CASE("a swap of neighbours is one edit, not two") {
  // Of three letters one edit may differ. Two substitutions would be too many.
  CHECK(nearest_spelling("dna", {"dan"}) == "dan");
  CHECK(nearest_spelling("dxn", {"dax"}) == "");
}

TEST_CASE("case counts for nothing") { CHECK(nearest_spelling("BF16", {"fp16", "bf16"}) == "bf16"); }

TEST_CASE("nothing is suggested above a third of the word's length") {
  CHECK(nearest_spelling("abcdef", {"abcdxy"}) == "abcdxy");  // 2 of 6
  CHECK(nearest_spelling("abcdef", {"abcxyz"}) == "");        // 3 of 6
  CHECK(nearest_spelling("ab", {"ax"}) == "");                // a third of two letters is less than one
  CHECK(nearest_spelling("", {"a"}) == "");
  CHECK(nearest_spelling("word", {}) == "");
}

TEST_CASE("of equally near words the first is suggested") { CHECK(nearest_spelling("cat", {"bat", "rat"}) == "bat"); }

TEST_CASE("the suggestion is ready to follow a sentence") {
  CHECK(did_you_mean("hiden_size", {"hidden_size"}) == " (did you mean 'hidden_size'?)");
  CHECK(did_you_mean("flops", {"hidden_size"}) == "");
}
