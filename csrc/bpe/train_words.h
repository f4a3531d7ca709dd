// SPDX-License-Identifier: Apache-2.0
// What a trainer learns from: unique words as symbols, with how often each occurs.
#pragma once
#include <cstdint>
#include <functional>

namespace tk::bpe {

struct Words {
  const uint32_t* symbols;  // the words one after the other
  const int64_t* offsets;   // (W + 1) of them in symbols
  const int64_t* counts;    // (W), not negative
  int64_t words;            // W
};

struct Merge {
  uint32_t left, right, result;
};

// Called now and then with the merges done so far; it may throw to end the work.
using Progress = std::function<void(int64_t merges)>;

}  // namespace tk::bpe
