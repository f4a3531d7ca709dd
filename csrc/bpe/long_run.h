// SPDX-License-Identifier: Apache-2.0
// Runs of one class of ASCII, 64 bytes at a time: what long runs fall back on, on the host. A device goes on by
// character.
#pragma once
#include "bpe/unicode.h"

#if !defined(__CUDACC__)
#include "bpe/block64.h"
#endif

namespace tk::bpe::scan {

constexpr int kLongRun = 32;  // characters read one by one before a run counts as long

#if defined(__CUDACC__)
template <Classes set>
TK_INLINE const uint8_t* skip_blocks(const uint8_t* p, const uint8_t*) {
  return p;
}
#else
// Bytes of ASCII that are of the set.
template <Classes set>
TK_INLINE uint64_t bytes_of(const Block64& block) {
  if constexpr (set == kLetter) return block.within('a', 26, 0x20);
  if constexpr (set == kLowerLike) return block.within('a', 26);
  if constexpr (set == kUpperLike) return block.within('A', 26);
  if constexpr (set == kNumber) return block.within('0', 10);
  const uint64_t space = block.within('\t', 5) | block.equal(' ');
  if constexpr (set == kSpace) return space;
  return ~(space | block.within('a', 26, 0x20) | block.within('0', 10) | block.high());
}

// A later place of the same run, as far as it is ASCII.
template <Classes set>
TK_INLINE const uint8_t* skip_blocks(const uint8_t* p, const uint8_t* end) {
  while (end - p >= 64) {
    const uint64_t others = ~bytes_of<set>(Block64::load(p));
    if (others) return p + __builtin_ctzll(others);
    p += 64;
  }
  return p;
}
#endif

// Behind the last newline in [begin, end), or nullptr.
TK_INLINE const uint8_t* behind_newline(const uint8_t* begin, const uint8_t* end) {
  while (end > begin && end[-1] != '\n' && end[-1] != '\r') --end;
  return end > begin ? end : nullptr;
}

}  // namespace tk::bpe::scan
