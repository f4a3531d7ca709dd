// SPDX-License-Identifier: Apache-2.0
// For every row a list of its nearest codes. A register tile of rows meets one panel of codes after the other; a score
// above the row's threshold joins its list, and a full list is cut to the best `keep`, the worst of which is the new
// threshold. A pair's sum has the bits of core/best_column.h.
//
// What becomes of the lists is the caller's Writer:
//   int64_t keeps(book, row): how many codes the row's list has to end with, in [1, K]
//   void write(book, row, CodeList&, reported): `reported` makes of a score what the caller is told
// Included by per-ISA files only.
#pragma once
#include "core/score_key.h"
#include "quantize/code_rules.h"

namespace tk::quantize {
namespace {

constexpr int64_t kListSlack = 64;         // at least so many scores join between two cuts
constexpr int64_t kListBytes = 512 << 10;  // of the lists of rows that meet a group of panels together

// A score and its column as one number: the larger comes first, all differ. 0 is no column.
TK_INLINE uint64_t list_key(float score, int32_t column) {
  return uint64_t{score_key(score)} << 32 | (0xffffffffu - static_cast<uint32_t>(column));
}
TK_INLINE int64_t column_of(uint64_t key) { return static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(key)); }
TK_INLINE float score_of(uint64_t key) {
  const auto high = static_cast<uint32_t>(key >> 32);
  return detail::bit_cast<float>(high < 0x80000000u ? 0x80000000u | (0x80000000u - high) : high - 0x80000000u);
}

struct CodeList {
  uint64_t* keys;   // [capacity + W]
  uint64_t* spare;  // as many, shared by all lists of a thread
  int64_t keep, capacity, count;
  float threshold;
};

// ---- order ------------------------------------------------------------------------------------------------------
TK_INLINE uint64_t middle_of(uint64_t a, uint64_t b, uint64_t c) {
  const uint64_t low = a < b ? a : b;
  const uint64_t high = a < b ? b : a;
  return c < low ? low : c > high ? high : c;
}

// Puts the `keep` largest of `count` different keys first, in any order.
inline void put_largest_first(uint64_t* keys, int64_t count, int64_t keep, uint64_t* spare) {
  while (keep > 0 && keep < count) {
    const uint64_t pivot = middle_of(keys[0], keys[count / 2], keys[count - 1]);
    int64_t above = 0;
    int64_t below = 0;
    for (int64_t i = 0; i < count; ++i) {  // without a branch: each key is written to both, and counted in one
      const uint64_t key = keys[i];
      keys[above] = key;
      spare[below] = key;
      above += key > pivot;
      below += key < pivot;
    }
    keys[above] = pivot;
    for (int64_t i = 0; i < below; ++i) keys[above + 1 + i] = spare[i];
    if (keep <= above) {
      count = above;
    } else {
      keys += above + 1;
      count = below;
      keep -= above + 1;
    }
  }
}

TK_INLINE uint64_t lowest_key(const uint64_t* keys, int64_t count) {
  uint64_t lowest = keys[0];
  for (int64_t i = 1; i < count; ++i) lowest = keys[i] < lowest ? keys[i] : lowest;
  return lowest;
}

// Cuts a list to its best `keep`; returns how many there are.
inline int64_t cut_list(CodeList& list) {
  if (list.count > list.keep) {
    put_largest_first(list.keys, list.count, list.keep, list.spare);
    list.count = list.keep;
  }
  if (list.count == list.keep) list.threshold = score_of(lowest_key(list.keys, list.keep));
  return list.count;
}

// Largest first: runs of insertion, then merged two by two.
inline void sort_keys(uint64_t* keys, int64_t count, uint64_t* spare) {
  constexpr int64_t kRun = 16;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t end = begin + kRun < count ? begin + kRun : count;
    for (int64_t i = begin + 1; i < end; ++i) {
      const uint64_t key = keys[i];
      int64_t at = i;
      for (; at > begin && keys[at - 1] < key; --at) keys[at] = keys[at - 1];
      keys[at] = key;
    }
  }
  for (int64_t run = kRun; run < count; run *= 2) {
    for (int64_t begin = 0; begin + run < count; begin += 2 * run) {
      const int64_t end = begin + 2 * run < count ? begin + 2 * run : count;
      for (int64_t i = 0; i < run; ++i) spare[i] = keys[begin + i];
      int64_t left = 0;
      int64_t right = begin + run;
      for (int64_t out = begin; left < run; ++out) {
        const bool from_right = right < end && keys[right] > spare[left];
        keys[out] = from_right ? keys[right] : spare[left];
        right += from_right;
        left += !from_right;
      }
    }
  }
}

// Cuts and sorts a list; returns how many codes it holds.
inline int64_t sort_list(CodeList& list) {
  cut_list(list);
  sort_keys(list.keys, list.count, list.spare);
  return list.count;
}

// ---- scores -----------------------------------------------------------------------------------------------------
TK_INLINE uint32_t lanes_of(vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#else
  uint32_t lanes = 0;
#pragma GCC unroll 4
  for (int i = 0; i < W; ++i) lanes |= static_cast<uint32_t>(mask[i] & 1) << i;
  return lanes;
#endif
}

inline void join_list(CodeList& list, const float* scores, uint32_t lanes, int64_t first) {
  for (; lanes; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    list.keys[list.count++] = list_key(scores[lane], static_cast<int32_t>(first + lane));
  }
  if (list.count >= list.capacity) cut_list(list);
}

template <class Kind, bool kScaled, int R, int V>
TK_INLINE void list_panel(const Panels& c, const float* rows, int64_t stride, CodeList* lists, int64_t p) {
  float scores[R][V * W];
  {
    vf sum[R][V];
    multiply_panel<Kind>(rows, stride, c.packed + p * c.words * kPanel, c.words, c.bias + p * kPanel, sum);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        store(scores[i] + v * W, kScaled ? sum[i][v] * load(c.scale + p * kPanel + v * W) : sum[i][v]);
      }
    }
  }
  for (int i = 0; i < R; ++i) {
    CodeList& list = lists[i];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {  // false for a NaN; the earlier column keeps a tie
      const uint32_t lanes = lanes_of(load(scores[i] + v * W) > set(list.threshold));
      if (lanes) join_list(list, scores[i] + v * W, lanes, p * kPanel + v * W);
    }
  }
}

template <class Kind, bool kScaled, int R>
void list_panels(const Panels& c, const float* rows, int64_t stride, CodeList* lists, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    if (c.columns - p * kPanel > W) {
      list_panel<Kind, kScaled, R, kVectors>(c, rows, stride, lists, p);
    } else {
      list_panel<Kind, kScaled, R, 1>(c, rows, stride, lists, p);
    }
  }
}

template <class Kind, bool kScaled, int R>
void list_with_rows(int64_t count, const Panels& c, const float* rows, int64_t stride, CodeList* lists, int64_t begin,
                    int64_t end) {
  if (count == R) return list_panels<Kind, kScaled, R>(c, rows, stride, lists, begin, end);
  if constexpr (R > 1) list_with_rows<Kind, kScaled, R - 1>(count, c, rows, stride, lists, begin, end);
}

// Groups of panels stay in L2 while every row tile meets them.
template <class Kind, bool kScaled>
void list_columns(const Panels& c, const float* rows, int64_t stride, int64_t count, CodeList* lists) {
  const int64_t panel_bytes = c.words * kPanel * static_cast<int64_t>(sizeof(float));
  const int64_t at_once = panel_bytes > 0 && panel_bytes < kGroupBytes ? kGroupBytes / panel_bytes : 1;
  for (int64_t p = 0; p < c.panels; p += at_once) {
    const int64_t end = p + at_once < c.panels ? p + at_once : c.panels;
    for (int64_t i = 0; i < count; i += kRows) {
      const int64_t some = count - i < kRows ? count - i : kRows;
      list_with_rows<Kind, kScaled, kRows>(some, c, rows + i * stride, stride, lists + i, p, end);
    }
  }
}

// ---- blocks of rows ---------------------------------------------------------------------------------------------
template <class Writer>
struct MeetLists {
  const Writer& writer;

  int64_t extra_floats(const ColumnSearch&, int64_t) const { return 0; }
  void prepare(const Panels&) const {}

  template <class Kind, class Rule>
  void search(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Rule& rule) const {
    int64_t longest = 0;
    for (int64_t i = 0; i < k.count; ++i) {
      const int64_t keeps = writer.keeps(c.b, k.first + i);
      longest = keeps > longest ? keeps : longest;
    }
    const int64_t slack = longest > kListSlack ? longest : kListSlack;
    const int64_t pitch = (longest + slack < c.columns ? longest + slack : c.columns) + W;
    int64_t block = kListBytes / static_cast<int64_t>(sizeof(uint64_t)) / pitch / kRows * kRows;
    block = block < kRows ? kRows : block < k.count ? block : k.count;
    const Scratch<uint64_t> keys((block + 1) * pitch);
    const Scratch<CodeList> lists(block);
    for (int64_t first = 0; first < k.count; first += block) {
      const int64_t count = k.count - first < block ? k.count - first : block;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t keeps = writer.keeps(c.b, k.first + first + i);
        uint64_t* own = keys.data() + (i + 1) * pitch;
        lists[i] = {own, keys.data(), keeps, pitch - W, 0, kNever};
      }
      list_columns<Kind, Rule::template kScaled<Kind>>(c, rows + first * stride, stride, count, lists.data());
      write<Kind, Rule>(c, {k.first + first, count}, rows + first * stride, stride, lists.data(), rule);
    }
  }

  template <class Kind, class Rule>
  void write(const Panels& c, RowBlock k, const float* rows, int64_t stride, CodeList* lists, const Rule&) const {
    for (int64_t i = 0; i < k.count; i += W) {
      const int64_t present = k.count - i < W ? k.count - i : W;
      RowAnswers r{k.first + i, present, zero(), vi{}, zero(), rows + i * stride, stride};
      r.squares = squared_norms<Kind>(r.rows, stride, present, c.words);
      const vf term = Rule::template row_term<Kind>(c, r);
      const vi valid = is_finite(term);
      for (int64_t lane = 0; lane < present; ++lane) {
        CodeList& list = lists[i + lane];
        if (!valid[lane]) list.count = 0;
        const auto reported = [&](float score) { return Rule::reported(set(score), set(term[lane]))[0]; };
        writer.write(c.b, k.first + i + lane, list, reported);
      }
    }
  }
};

template <class Writer>
struct FindLists {
  const CodeSearch& s;
  const Writer& writer;

  template <class Kind, class T, class Rule>
  void operator()(Rule rule) const {
    search_columns<Kind, T>(columns_of(s), rule, MeetLists<Writer>{writer});
  }
};

template <class Writer>
void find_lists(const CodeSearch& s, const Writer& writer) {
  if (s.rows == 0) return;
  with_kind_and_rule(s, FindLists<Writer>{s, writer});
}

}  // namespace
}  // namespace tk::quantize
