// SPDX-License-Identifier: Apache-2.0
// The chosen items of a row behind its cut, for the SIMD kernels: gathered by ascending index, and put in the order of
// their keys.
#pragma once
#include "select/key_cut.h"

namespace tk::selection {
namespace {

constexpr int64_t kFew = 24;   // pairs that insertion sorts fastest
constexpr int kMostBits = 11;  // of a digit
constexpr int64_t kMovesPerPair = 4;

inline int64_t chosen_room(int64_t n, int64_t k) { return k + parts_of(n) * W; }

// False where the pairs need more than `moves` moves; they are then in some better order than before.
inline bool insert_pairs(uint64_t* pairs, int64_t n, int64_t moves) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t pair = pairs[i];
    if (pairs[i - 1] <= pair) continue;
    int64_t at = i;
    for (; at > 0 && pairs[at - 1] > pair; --at) pairs[at] = pairs[at - 1];
    pairs[at] = pair;
    moves -= i - at;
    if (moves < 0) return false;
  }
  return true;
}

inline void start_bins(uint32_t* count, uint32_t bins) {
  uint32_t start = 0;
  for (uint32_t b = 0; b < bins; ++b) {
    const uint32_t here = count[b];
    count[b] = start;
    start += here;
  }
}

// Stable, by two digits of `width` bits each, from bit `shift` on.
inline void sort_two_digits(uint64_t* pairs, uint64_t* spare, int64_t n, int shift, int width) {
  uint32_t low[1 << kMostBits];
  uint32_t high[1 << kMostBits];
  const uint32_t bins = 1u << width;
  __builtin_memset(low, 0, bins * sizeof(uint32_t));
  __builtin_memset(high, 0, bins * sizeof(uint32_t));
  for (int64_t i = 0; i < n; ++i) {
    const auto digits = static_cast<uint32_t>(pairs[i] >> shift);
    ++low[digits & (bins - 1)];
    ++high[digits >> width & (bins - 1)];
  }
  start_bins(low, bins);
  start_bins(high, bins);
  for (int64_t i = 0; i < n; ++i) spare[low[pairs[i] >> shift & (bins - 1)]++] = pairs[i];
  for (int64_t i = 0; i < n; ++i)
    pairs[high[static_cast<uint32_t>(spare[i] >> shift) >> width & (bins - 1)]++] = spare[i];
}

// Sorts pairs (rank, index) that stand by ascending index; ranks have `bits` bits. Two digits are nearly always enough
// to put them in an order that a few moves complete; where they are not, the lower bits go first.
inline void sort_pairs(uint64_t* pairs, uint64_t* spare, int64_t n, int bits) {
  const int width = n < 1024 ? 8 : n < 8192 ? 9 : kMostBits;
  const int shift = bits > 2 * width ? bits - 2 * width : 0;
  sort_two_digits(pairs, spare, n, 32 + shift, width);
  if (shift == 0 || insert_pairs(pairs, n, kMovesPerPair * n)) return;
  for (int from = 0; from < bits; from += 2 * width) sort_two_digits(pairs, spare, n, 32 + from, width);
}

// Puts the indices of the chosen items in the order of their keys, largest first, equals as they are.
inline void sort_chosen(const uint32_t* key, uint32_t* index, int64_t k) {
  uint32_t low = key[0];
  uint32_t high = key[0];
  for (int64_t i = 1; i < k; ++i) {
    low = key[i] < low ? key[i] : low;
    high = key[i] > high ? key[i] : high;
  }
  if (low == high) return;
  const Scratch<uint64_t> pairs(k);
  for (int64_t i = 0; i < k; ++i) pairs[i] = uint64_t{high - key[i]} << 32 | index[i];
  if (k <= kFew) {
    insert_pairs(pairs.data(), k, k * k);
  } else {
    const Scratch<uint64_t> spare(k);
    sort_pairs(pairs.data(), spare.data(), k, 32 - __builtin_clz(high - low));
  }
  for (int64_t i = 0; i < k; ++i) index[i] = static_cast<uint32_t>(pairs[i]);
}

// Keys and indices of the chosen items, by ascending index. Every part has a vector's room behind its items.
inline void gather_row(const uint32_t* keys, int64_t n, int64_t k, KeyCut cut, uint32_t* key, uint32_t* index) {
  const Scratch<int64_t> starts(parts_of(n) + 1);
  starts[parts_of(n)] = k;
  for_parts(keys, n, k, cut, [&](int64_t part, KeyCut left, int64_t before, int64_t here) {
    const int64_t at = before + part * W;
    starts[part] = before;
    gather_chosen(keys + part * kPart, part_size(n, part), left, part * kPart, here, key + at, index + at);
  });
  for (int64_t part = 1; part < parts_of(n); ++part) {
    const auto bytes = static_cast<size_t>(starts[part + 1] - starts[part]) * sizeof(uint32_t);
    __builtin_memmove(key + starts[part], key + starts[part] + part * W, bytes);
    __builtin_memmove(index + starts[part], index + starts[part] + part * W, bytes);
  }
}

}  // namespace
}  // namespace tk::selection
