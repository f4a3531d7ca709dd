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

TK_INLINE uint32_t word_of(PairMerge merge, int place) {
  return merge.rank == kNoRank ? kNoMerge
                               : static_cast<uint32_t>(merge.rank) << kPlaceBits | static_cast<uint32_t>(place);
}

// Eight lanes where there are registers for them: sixteen take longer to find the smallest of.
constexpr int kLanes = W < 8 ? W : 8;
typedef uint32_t WordLanes __attribute__((vector_size(4 * kLanes), may_alias));
typedef uint32_t FourWords __attribute__((vector_size(16), may_alias));

// The places of lanes are written out: those that a loop computes are computed anew each time.
TK_INLINE uint32_t smallest_lane(FourWords x) {
  FourWords y = __builtin_shufflevector(x, x, 2, 3, 0, 1);
  x = y < x ? y : x;
  y = __builtin_shufflevector(x, x, 1, 0, 3, 2);
  x = y < x ? y : x;
  return x[0];
}

#if defined(__AVX__)
TK_INLINE uint32_t smallest_lane(WordLanes x) {
  const FourWords low = __builtin_shufflevector(x, x, 0, 1, 2, 3), high = __builtin_shufflevector(x, x, 4, 5, 6, 7);
  return smallest_lane(high < low ? high : low);
}
#endif

// The words of up to N places in registers: reading them as vectors just after writing one would wait for memory.
template <int N>
class Words {
 public:
  TK_INLINE uint32_t smallest(const Words& words) {
    WordLanes best = words.v_[0];
#pragma GCC unroll 64
    for (int i = 1; i < kVectors; ++i) best = words.v_[i] < best ? words.v_[i] : best;
    return smallest_lane(best);
  }

  TK_INLINE void load(Words& words, const uint32_t* from) {
#pragma GCC unroll 64
    for (int i = 0; i < kVectors; ++i) words.v_[i] = *reinterpret_cast<const WordLanes*>(from + i * kLanes);
  }

  TK_INLINE void set(Words& words, int place, uint32_t word) {
    const WordLanes at = static_cast<uint32_t>(place) - WordLanes{};
    const WordLanes to = word - WordLanes{};
    WordLanes lane;
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<uint32_t>(i);
#pragma GCC unroll 64
    for (int i = 0; i < kVectors; ++i, lane += kLanes) words.v_[i] = lane == at ? to : words.v_[i];
  }

 private:
  static constexpr int kVectors = N / kLanes;
  WordLanes v_[kVectors];
};

// The merges of `merged` with its neighbours. Both filters are read before either answer is used.
TK_INLINE void find_both(const VocabView& v, int32_t before, int32_t merged, int32_t behind, PairMerge* left,
                         PairMerge* right) {
  if (!v.packed_pairs) {
    if (before != kNoToken) *left = find_pair(v, before, merged);
    if (behind != kNoToken) *right = find_pair(v, merged, behind);
    return;
  }
  const uint64_t left_hash = hash_pair(before, merged), right_hash = hash_pair(merged, behind);
  const bool left_may = may_be_packed(v, left_hash), right_may = may_be_packed(v, right_hash);
  if (left_may) *left = probe_packed_pair(v, left_hash, before, merged);
  if (right_may) *right = probe_packed_pair(v, right_hash, merged, behind);
}

// Every byte is a token, 2 <= n <= N <= kArrayBytes, ranks below kMostPackedRanks.
template <int N>
int merge_words(const VocabView& v, const uint8_t* p, int n, int32_t* out) {
  alignas(64) uint32_t first[N];
  int32_t token[N + 1], result[N + 1];  // place N lies beyond both ends
  uint16_t next[N], previous[N + 1];
  for (int i = 0; i + 1 < n; ++i) {
    const PairMerge merge = v.byte_pairs[p[i] << 8 | p[i + 1]];
    first[i] = word_of(merge, i);
    result[i] = merge.result;
  }
  for (int i = n - 1; i < N; ++i) first[i] = kNoMerge;
  for (int i = 0; i < n; ++i) {
    token[i] = v.byte_token[p[i]];
    next[i] = static_cast<uint16_t>(i + 1);
    previous[i] = static_cast<uint16_t>(i - 1);
  }
  previous[0] = N;
  token[n] = token[N] = kNoToken;
  Words<N> words;
  Words<N>::load(words, first);
  for (uint32_t best; (best = Words<N>::smallest(words)) != kNoMerge;) {
    const int i = static_cast<int>(best & ((1u << kPlaceBits) - 1));
    const int gone = next[i];
    const int behind = next[gone];
    const int32_t merged = token[i] = result[i];
    next[i] = static_cast<uint16_t>(behind);
    previous[behind] = static_cast<uint16_t>(i);
    const int before = previous[i];
    PairMerge left{kNoRank, kNoToken}, right{kNoRank, kNoToken};
    find_both(v, token[before], merged, token[behind], &left, &right);
    result[before] = left.result;
    result[i] = right.result;
    Words<N>::set(words, before, word_of(left, before & (N - 1)));
    Words<N>::set(words, gone, kNoMerge);
    Words<N>::set(words, i, word_of(right, i));
  }
  int count = 0;
  for (int i = 0; i < n; i = next[i]) out[count++] = token[i];
  return count;
}

inline int merge_array(const VocabView& v, const uint8_t* p, int n, int32_t* out) {
  if (n <= 16) return merge_words<16>(v, p, n, out);
  if (n <= 32) return merge_words<32>(v, p, n, out);
  if (n <= 64) return merge_words<64>(v, p, n, out);
  if (n <= 128) return merge_words<128>(v, p, n, out);
  return merge_words<kArrayBytes>(v, p, n, out);
}

}  // namespace
}  // namespace tk::bpe
