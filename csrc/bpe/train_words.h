// SPDX-License-Identifier: Apache-2.0
// What a trainer learns from: unique words as symbols, with how often each occurs.
#pragma once
#include <cstdint>
#include <functional>

namespace tk::bpe {

struct Words {
  const uint8_t* bytes;     // the words one after the other, where symbols are bytes
  const int64_t* byte_ids;  // (256) the symbol of each byte, or -1: it is left out
  const int64_t* ids;       // instead of bytes: the symbols themselves
  const int64_t* offsets;   // (W + 1) of words in bytes or ids
  const int64_t* counts;    // (W), not negative
  int64_t words;            // W

  // Calls visit(symbol) for every symbol of word w.
  template <class Visit>
  void for_each_symbol(int64_t w, Visit&& visit) const {
    for (int64_t i = offsets[w]; i < offsets[w + 1]; ++i) {
      const int64_t id = bytes ? byte_ids[bytes[i]] : ids[i];
      if (id >= 0) visit(static_cast<uint32_t>(id));
    }
  }
};

struct Merge {
  uint32_t left, right, result;
};

// Called now and then with the merges done so far; it may throw to end the work.
using Progress = std::function<void(int64_t merges)>;

}  // namespace tk::bpe
