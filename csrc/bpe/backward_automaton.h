// SPDX-License-Identifier: Apache-2.0
// The longest pattern at every start of a text, in one pass from its end: an Aho-Corasick automaton of the patterns
// read backwards. After reading text[i] its state is the longest string that both begins at i and ends a pattern;
// patterns that start at i are those that the state, as a backward string, ends with.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "bpe/double_array.h"
#include "bpe/patterns.h"

namespace tk::bpe {

class BackwardAutomaton {
 public:
  explicit BackwardAutomaton(const Patterns& patterns);

  // longest[i - first] = the longest pattern of text[i, end of text), for i in [first, last), or -1.
  void longest_at(std::string_view text, int64_t first, int64_t last, int32_t* longest) const;

 private:
  int32_t step(int32_t state, uint8_t byte) const;

  DoubleArray nodes_;
  std::vector<int32_t> shorter_;  // the state of the longest proper suffix, by state
  std::vector<int32_t> longest_;  // pattern, by state
};

}  // namespace tk::bpe
