// SPDX-License-Identifier: Apache-2.0
// merge_scan for pieces of up to kArrayBytes, in registers and one or two cache lines: rank and place share one word,
// so that the smallest word is the next merge, the leftmost among equals. Included once per instruction set.
#pragma once
#include "bpe/vocab_view.h"
#include "core/simd.h"

namespace tk::bpe {
namespace {

constexpr int kArrayBytes = 256;
constexpr uint32_t kNoMerge = ~0u;
constexpr int kPlaceBits = 8;
static_assert(kMostPackedRanks == (1 << (32 - kPlaceBits)) - 1);

typedef uint32_t vu_unaligned __attribute__((vector_size(4 * W), may_alias, aligned(4)));

TK_INLINE uint32_t smallest(const uint32_t* words, int n) {
  vu best = *reinterpret_cast<const vu_unaligned*>(words);
  for (int i = W; i < n; i += W) {
    const vu next = *reinterpret_cast<const vu_unaligned*>(words + i);
    best = next < best ? next : best;
  }
#pragma GCC unroll 4
  for (int step = W / 2; step > 0; step /= 2) {
    vu order;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) order[i] = static_cast<uint32_t>(i ^ step);
    const vu other = __builtin_shuffle(best, order);
    best = other < best ? other : best;
  }
  return best[0];
}

// Every byte is a token, 2 <= n <= kArrayBytes, ranks below kMostPackedRanks.
inline int merge_array(const VocabView& v, const uint8_t* p, int n, int32_t* out) {
  alignas(64) uint32_t word[kArrayBytes + W];
  int32_t token[kArrayBytes], result[kArrayBytes];
  uint16_t next[kArrayBytes], previous[kArrayBytes];
  for (int i = 0; i < n; ++i) {
    token[i] = v.byte_token[p[i]];
    next[i] = static_cast<uint16_t>(i + 1);
    previous[i] = static_cast<uint16_t>(i - 1);
  }
  const auto set_merge = [&](int i, PairMerge merge) {
    word[i] =
        merge.rank == kNoRank ? kNoMerge : static_cast<uint32_t>(merge.rank) << kPlaceBits | static_cast<uint32_t>(i);
    result[i] = merge.result;
  };
  for (int i = 0; i + 1 < n; ++i) set_merge(i, v.byte_pairs[p[i] << 8 | p[i + 1]]);
  for (int i = n - 1; i < (n + W - 1) / W * W; ++i) word[i] = kNoMerge;
  for (;;) {
    const uint32_t best = smallest(word, n);
    if (best == kNoMerge) break;
    const int i = static_cast<int>(best & ((1u << kPlaceBits) - 1));
    const int gone = next[i];
    const int behind = next[gone];
    token[i] = result[i];
    word[gone] = kNoMerge;
    next[i] = static_cast<uint16_t>(behind);
    if (behind < n) {
      previous[behind] = static_cast<uint16_t>(i);
      set_merge(i, find_pair(v, token[i], token[behind]));
    } else {
      word[i] = kNoMerge;
    }
    if (i > 0) {
      const int before = previous[i];
      set_merge(before, find_pair(v, token[before], token[i]));
    }
  }
  int count = 0;
  for (int i = 0; i < n; i = next[i]) out[count++] = token[i];
  return count;
}

}  // namespace
}  // namespace tk::bpe
