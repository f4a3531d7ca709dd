// SPDX-License-Identifier: Apache-2.0
// A vector of keys at a time, for the SIMD kernels: made from scores, counted, and moved together.
#pragma once
#include "core/simd.h"
#include "select/score_rows.h"

namespace tk::selection {
namespace {

typedef uint32_t vu_unaligned __attribute__((vector_size(4 * W), may_alias, aligned(4)));

TK_INLINE vu load_keys(const uint32_t* p) { return *reinterpret_cast<const vu_unaligned*>(p); }
TK_INLINE void store_keys(uint32_t* p, vu x) { *reinterpret_cast<vu_unaligned*>(p) = x; }

TK_INLINE vu score_keys(vf score) {
  const vi bits = (vi)score;
  const vu magnitude = (vu)(bits & 0x7fffffff);
  const vu key = bits < 0 ? 0x80000000u - magnitude : 0x80000000u + magnitude;
  return magnitude > 0x7f800000u ? kNanKey - vu{} : key;
}

typedef uint8_t vb_unaligned __attribute__((vector_size(W), may_alias, aligned(1)));

// Keys of a part of a row.
template <class T>
inline void make_keys(const T* score, const uint8_t* mask, int64_t n, uint32_t* keys) {
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    vu key = score_keys(load(score + i));
    if (mask) {
      const vu open = __builtin_convertvector(*reinterpret_cast<const vb_unaligned*>(mask + i), vu);
      key = open != 0u ? key : kMaskedKey - vu{};
    }
    store_keys(keys + i, key);
  }
  for (; i < n; ++i) keys[i] = mask && !mask[i] ? kMaskedKey : score_key(to_float(score[i]));
}

struct KeyCounts {
  int64_t above, equal;
};

inline KeyCounts count_keys(const uint32_t* keys, int64_t n, uint32_t key) {
  vi above = {}, equal = {};
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    const vu x = load_keys(keys + i);
    above -= (vi)(x > key);
    equal -= (vi)(x == key);
  }
  KeyCounts sum{0, 0};
  for (int l = 0; l < W; ++l) {
    sum.above += above[l];
    sum.equal += equal[l];
  }
  for (; i < n; ++i) {
    sum.above += keys[i] > key;
    sum.equal += keys[i] == key;
  }
  return sum;
}

// Moves the keys in [low, low + span] to `kept` (which may be `keys`, or has room for n) in their order; how many.
inline int64_t keep_range(const uint32_t* keys, int64_t n, uint32_t low, uint32_t span, uint32_t* kept) {
  int64_t count = 0;
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512i lowest = (__m512i)(low - vu{});
  const __m512i widest = (__m512i)(span - vu{});
  for (; i + W <= n; i += W) {
    const __m512i x = (__m512i)load_keys(keys + i);
    const __mmask16 inside = _mm512_cmple_epu32_mask((__m512i)((vu)x - (vu)lowest), widest);
    store_keys(kept + count, (vu)_mm512_maskz_compress_epi32(inside, x));
    count += __builtin_popcount(inside);
  }
#endif
  for (; i < n; ++i) {
    const uint32_t key = keys[i];
    kept[count] = key;
    count += key - low <= span;
  }
  return count;
}

// The chosen items of a part of a row, by ascending index from `first` on; `key` and `index` have room for `wanted`,
// the number of them, and W more.
inline void gather_chosen(const uint32_t* keys, int64_t n, KeyCut cut, int64_t first, int64_t wanted, uint32_t* key,
                          uint32_t* index) {
  int64_t count = 0;
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512i last = (__m512i)(cut.key - vu{});
  const vi lanes = iota(0);
  for (; i + W <= n && count < wanted; i += W) {
    const __m512i x = (__m512i)load_keys(keys + i);
    uint32_t equal = _mm512_cmpeq_epu32_mask(x, last);
    const int equals = __builtin_popcount(equal);
    if (equals > cut.ties) equal = _pdep_u32((1u << cut.ties) - 1u, equal);
    cut.ties -= equals < cut.ties ? equals : cut.ties;
    const auto chosen = static_cast<__mmask16>(_mm512_cmpgt_epu32_mask(x, last) | equal);
    const vi position = lanes + static_cast<int32_t>(first + i);
    store_keys(key + count, (vu)_mm512_maskz_compress_epi32(chosen, x));
    store_keys(index + count, (vu)_mm512_maskz_compress_epi32(chosen, (__m512i)position));
    count += __builtin_popcount(chosen);
  }
#endif
  for (; i < n && count < wanted; ++i) {
    const bool tie = keys[i] == cut.key && cut.ties > 0;
    key[count] = keys[i];
    index[count] = static_cast<uint32_t>(first + i);
    count += keys[i] > cut.key || tie;
    cut.ties -= tie;
  }
}

}  // namespace
}  // namespace tk::selection
