// SPDX-License-Identifier: Apache-2.0
// Finds the k-th largest key of a row without sorting it, for the SIMD kernels: keys are counted in bins by their
// highest bits, and only those of the bin where the count reaches k are looked at again, by their next bits. Long rows
// are cut into parts, which threads count side by side.
#pragma once
#include "core/parallel.h"
#include "core/scratch.h"
#include "select/key_lanes.h"

namespace tk::selection {
namespace {

constexpr int64_t kPart = int64_t{1} << 15;  // items; counts of a part fit 16 bits
constexpr int64_t kManyRows = 8;             // that threads take one each: nothing waits between the steps of a row
constexpr int64_t kSample = 256;             // keys
constexpr int64_t kSampleError = 24;         // three standard deviations of a rank in the sample, at the median
constexpr int64_t kSampledFrom = 2048;       // keys of a row; shorter rows are counted at once
constexpr int kTopShift = 21;
constexpr int kTopBins = 1 << (32 - kTopShift);
constexpr uint32_t kTopMask = (1u << kTopShift) - 1u;
constexpr int kBinBlock = 64;  // bins that the search for the k-th key passes over at once
constexpr int kDigitBits = 8;
constexpr int kDigitBins = 1 << kDigitBits;

inline int64_t parts_of(int64_t n) { return (n + kPart - 1) / kPart; }
inline int64_t part_size(int64_t n, int64_t part) { return n - part * kPart < kPart ? n - part * kPart : kPart; }

// Neighbours count in different halves, so that equal ones need not wait for each other.
struct TopBins {
  uint16_t count[2][kTopBins];
};

inline void count_top_digits(const uint32_t* keys, int64_t n, TopBins& bins) {
  __builtin_memset(&bins, 0, sizeof bins);
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    ++bins.count[0][keys[i] >> kTopShift];
    ++bins.count[1][keys[i + 1] >> kTopShift];
  }
  if (i < n) ++bins.count[0][keys[i] >> kTopShift];
}

// Where a search by bins ends: items of higher bins are chosen, `left` of those in `bin` are.
struct BinCut {
  int64_t bin, left;
  bool whole;  // all of that bin
};

template <int kBins>
inline BinCut find_bin(const uint32_t* count, int64_t k) {
  int64_t bin = kBins;
  for (;;) {
    uint32_t block = 0;
    for (int i = 1; i <= kBinBlock; ++i) block += count[bin - i];
    if (block >= k) break;
    k -= block;
    bin -= kBinBlock;
  }
  while (count[bin - 1] < k) k -= count[--bin];
  return {bin - 1, k, count[bin - 1] == k};
}

// The same for a few keys, which are overwritten.
inline KeyCut narrow_cut(uint32_t* keys, int64_t n, int64_t k) {
  for (;;) {
    uint32_t low = keys[0];
    uint32_t high = keys[0];
    for (int64_t i = 1; i < n; ++i) {
      low = keys[i] < low ? keys[i] : low;
      high = keys[i] > high ? keys[i] : high;
    }
    if (low == high) return {low, k};
    const int bits = 32 - __builtin_clz(high - low);
    const int shift = bits > kDigitBits ? bits - kDigitBits : 0;
    uint32_t count[kDigitBins] = {};
    for (int64_t i = 0; i < n; ++i) ++count[(keys[i] - low) >> shift];
    const BinCut cut = find_bin<kDigitBins>(count, k);
    const uint32_t lowest = low + (static_cast<uint32_t>(cut.bin) << shift);
    if (cut.whole) return {lowest, kAllTies};
    n = keep_range(keys, n, lowest, (1u << shift) - 1u, keys);
    k = cut.left;
  }
}

// Looks only at keys near the place where a sample of the row has its k-th largest, all the others are but compared;
// false where the sample misled.
inline bool find_near_sample(const uint32_t* keys, int64_t n, int64_t k, uint32_t* few, KeyCut& cut) {
  uint32_t count[kTopBins] = {};
  for (int64_t i = 0; i < kSample; ++i) ++count[keys[i * (n / kSample)] >> kTopShift];
  const int64_t rank = k * kSample / n;
  uint32_t low = 0;
  uint32_t high = ~0u;
  if (rank + kSampleError <= kSample) {
    low = static_cast<uint32_t>(find_bin<kTopBins>(count, rank + kSampleError).bin) << kTopShift;
  }
  if (rank > kSampleError) {
    high = static_cast<uint32_t>(find_bin<kTopBins>(count, rank - kSampleError).bin) << kTopShift | kTopMask;
  }
  const int64_t above = count_keys(keys, n, high).above;
  if (above >= k) return false;
  const int64_t near = keep_range(keys, n, low, high - low, few);
  if (above + near < k) return false;
  cut = narrow_cut(few, near, k - above);
  return true;
}

// By the highest digit of every key.
inline KeyCut find_by_counting(const uint32_t* keys, int64_t n, int64_t k, uint32_t* few) {
  const int64_t parts = parts_of(n);
  const Scratch<TopBins> bins(parts);
  const Scratch<uint32_t> total(kTopBins);
  const Scratch<int64_t> kept(parts);
  parallel_for(parts, [&](int64_t p) { count_top_digits(keys + p * kPart, part_size(n, p), bins[p]); });
  __builtin_memset(total.data(), 0, kTopBins * sizeof(uint32_t));
  for (int64_t p = 0; p < parts; ++p) {
    for (int b = 0; b < kTopBins; ++b) total[b] += bins[p].count[0][b] + bins[p].count[1][b];
  }
  const BinCut cut = find_bin<kTopBins>(total.data(), k);
  const uint32_t lowest = static_cast<uint32_t>(cut.bin) << kTopShift;
  if (cut.whole) return {lowest, kAllTies};
  parallel_for(parts, [&](int64_t p) {
    kept[p] = keep_range(keys + p * kPart, part_size(n, p), lowest, kTopMask, few + p * kPart);
  });
  int64_t count = kept[0];
  for (int64_t p = 1; p < parts; ++p) {
    __builtin_memmove(few + count, few + p * kPart, static_cast<size_t>(kept[p]) * sizeof(uint32_t));
    count += kept[p];
  }
  return narrow_cut(few, count, cut.left);
}

// Of keys that are there; `few` (n) is room for the search. 1 <= k <= n.
inline KeyCut find_cut_of_keys(const uint32_t* keys, int64_t n, int64_t k, uint32_t* few) {
  KeyCut cut{0, kAllTies};
  if (k == n) return cut;
  if (n >= kSampledFrom && n <= kPart && find_near_sample(keys, n, k, few, cut)) return cut;
  return find_by_counting(keys, n, k, few);
}

// Of scores, whose keys fill `keys` (n).
template <class T>
inline KeyCut find_key_cut(const T* score, const uint8_t* mask, int64_t n, int64_t k, uint32_t* keys, uint32_t* few) {
  parallel_for(parts_of(n), [&](int64_t p) {
    const int64_t first = p * kPart;
    make_keys(score + first, mask ? mask + first : nullptr, part_size(n, p), keys + first);
  });
  return find_cut_of_keys(keys, n, k, few);
}

// Calls body(part, cut with the ties that are left for the part, chosen items before the part, chosen ones in it).
template <class Body>
inline void for_parts(const uint32_t* keys, int64_t n, int64_t k, KeyCut cut, Body&& body) {
  const int64_t parts = parts_of(n);
  if (parts == 1) return body(int64_t{0}, cut, int64_t{0}, k);
  const Scratch<KeyCounts> counts(parts);
  parallel_for(parts, [&](int64_t p) { counts[p] = count_keys(keys + p * kPart, part_size(n, p), cut.key); });
  parallel_for(parts, [&](int64_t part) {
    KeyCut left = cut;
    int64_t before = 0;
    int64_t here = 0;
    for (int64_t p = 0; p <= part; ++p) {
      if (p > 0) left.ties -= counts[p - 1].equal < left.ties ? counts[p - 1].equal : left.ties;
      before += here;
      here = counts[p].above + (counts[p].equal < left.ties ? counts[p].equal : left.ties);
    }
    body(part, left, before, here);
  });
}

// Calls body(begin, end) for ranges of rows: side by side where rows are many or short, else all of them at once, each
// row by all threads. Scratch of long rows is worth taking once a range: it is new memory, page by page.
inline bool rows_in_turn(int64_t rows, int64_t width) { return width > kPart && rows < kManyRows; }
template <class Body>
inline void for_rows(int64_t rows, int64_t width, Body&& body) {
  if (rows_in_turn(rows, width)) return body(int64_t{0}, rows);
  parallel_ranges(rows, width * 8, body);
}
template <class Body>
inline void for_rows(const ScoreRows& s, Body&& body) {
  for_rows(s.rows, s.width, body);
}

}  // namespace
}  // namespace tk::selection
