// SPDX-License-Identifier: Apache-2.0
// Short columns, met first in integers: one instruction multiplies and adds two products of 16 bits a lane, or four of
// 8 bits, as fast as one of float32. An integer score bounds the float32 score of its pair from above, so that only
// panels whose bound reaches the float32 score of a row's best bound may hold its best column; these are met again
// (core/small_tile.h). The proof, in units of `rows scale x columns scale`, with x and c scaled and X = x + u, C = c +
// v the integers:
//   x.c + b = X.C - X.v - u.c + b <= X.C + b + |X||v| + |u||c|,
// and what float32 rounds on the way is at most a few 2^-24 of |x||c| + |b| a term. The last three terms are the bias
// of the integer sum, with the largest |X| and |u| of the block of rows, rounded. Included by per-ISA files only.
#pragma once
#include "core/small_tile.h"

namespace tk {
namespace {

#if defined(__AVX512F__)

constexpr float kIntegerSum = 0x1p29f;    // largest |X||C| in 16 bits: sum and bias stay below 2^31
constexpr float kIntegerBias = 0x1p30f;   // largest |b|
constexpr float kLargestScale = 0x1p50f;  // beyond it float32 has no room for the square
constexpr int64_t kBoundPanels = 1024;    // panels whose bounds are kept at once
constexpr int32_t kMostSmallMisses = 8;   // blocks that bounds told too little about, before no more are asked

TK_INLINE vf root_above(vf squares) {
  return (vf)_mm512_maskz_sqrt_ps(kAllLanes, (__m512)squares) * (1 + 0x1p-16f) + 0x1p-6f;
}
TK_INLINE vi nearest_int(vf x) { return (vi)_mm512_maskz_cvtps_epi32(kAllLanes, (__m512)x); }
TK_INLINE vf as_float(vi x) { return (vf)_mm512_maskz_cvtepi32_ps(kAllLanes, (__m512i)x); }
TK_INLINE vi higher_int(vi x, vi y) { return (vi)_mm512_maskz_max_epi32(kAllLanes, (__m512i)x, (__m512i)y); }

struct InWords {
  using vector = vi;
  using scalar = int32_t;
  TK_INLINE vi spread(int32_t x) { return set_int(x); }
  TK_INLINE vi not_yet() { return set_int(INT32_MIN); }
  TK_INLINE vi higher(vi score, vi known) { return higher_int(score, known); }
};

// In assembly, as core/bf16_dot.h.
struct In16Bits : InWords {
  static constexpr int kValues = 2;
  static constexpr int32_t kRowShift = 0;
  TK_INLINE vi dot(vi x, vi y, vi sum) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
  }
  // What a unit is, given the largest element and the largest norm.
  static float unit(float, float norm) { return norm * (1.0f / 23170.0f); }
  static_assert(23170.0f * 23170.0f <= kIntegerSum);
};

struct In8Bits : InWords {
  static constexpr int kValues = 4;
  static constexpr int32_t kRowShift = 128;  // rows are unsigned
  TK_INLINE vi dot(vi x, vi y, vi sum) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
  }
  static float unit(float element, float) { return element * (1.0f / 127.0f); }
};

// The largest of vectors.
struct Extent {
  float element, norm;
};

// What all columns of a sample have in common.
struct WordFacts {
  float inverse;  // of the columns' scale; 0 where there are no integers
  float norm;     // largest, scaled
  float bias;     // largest, as it is
  int32_t misses;
};

template <class A>
struct WordColumns {
  WordFacts* facts;
  int32_t* packed;  // [panels][words][kPanel]
  int32_t* shift;   // [panels][kPanel]: what kRowShift adds to a sum
  float* norm;      // [panels][kPanel]: scaled, -infinity for a column that may not be chosen
  float* lost;      // [panels][kPanel]: |v|
  int64_t words;

  static int64_t words_of(int64_t width) { return (width + A::kValues - 1) / A::kValues; }
  static int64_t floats(int64_t width, int64_t panels) { return W + panels * kPanel * (3 + words_of(width)); }

  WordColumns(float* memory, int64_t width, int64_t panels) : words(words_of(width)) {
    facts = reinterpret_cast<WordFacts*>(memory);
    norm = memory + W;
    lost = norm + panels * kPanel;
    shift = reinterpret_cast<int32_t*>(lost + panels * kPanel);
    packed = shift + panels * kPanel;
  }
};

// Scales `width` values a lane, `pitch` apart, and packs them into words. `squares`: of integers, of what was lost.
template <class A>
TK_INLINE void pack_words(const float* values, int64_t pitch, int64_t width, float inverse, int32_t shift, vi usable,
                          int32_t* out, int64_t out_pitch, vf (&squares)[2], vi* sum) {
  constexpr int kBits = 32 / A::kValues;
  squares[0] = squares[1] = zero();
  *sum = vi{};
  for (int64_t d = 0; d < width; d += A::kValues) {
    vi word{};
#pragma GCC unroll 4
    for (int k = 0; k < A::kValues; ++k) {
      if (d + k >= width) break;
      const vf scaled = select(usable, load(values + (d + k) * pitch) * inverse, zero());
      const vi whole = nearest_int(scaled);
      const vf lost = as_float(whole) - scaled;
      squares[0] = fma(scaled, scaled, squares[0]);
      squares[1] = fma(lost, lost, squares[1]);
      *sum += whole;
      word |= ((whole + shift) & static_cast<int32_t>((int64_t{1} << kBits) - 1)) << (k * kBits);
    }
    store_int(out + d / A::kValues * out_pitch, word);
  }
}

// The integers of one sample's columns, and of its rows.
template <class A>
struct WordSearch {
  const Panels& c;
  WordColumns<A> y;

  // A lane's column may be chosen.
  vi usable(int64_t first) const {
    const float* words = c.packed + first / kPanel * c.words * kPanel + first % kPanel;
    vf sum = abs(load(c.bias + first));
    for (int64_t w = 0; w < c.words; ++w) sum += abs(load(words + w * kPanel));
    return sum < __builtin_inff();
  }

  Extent column_extent(float* bias) const {
    vf element = zero();
    vf squares = zero();
    vf largest_bias = zero();
    for (int64_t first = 0; first < round_up(c.columns, W); first += W) {
      const vi use = usable(first);
      const float* words = c.packed + first / kPanel * c.words * kPanel + first % kPanel;
      vf own = zero();
      for (int64_t w = 0; w < c.words; ++w) {
        const vf value = select(use, load(words + w * kPanel), zero());
        element = max(element, abs(value));
        own = fma(value, value, own);
      }
      squares = max(squares, own);
      largest_bias = max(largest_bias, select(use, abs(load(c.bias + first)), zero()));
    }
    *bias = reduce_max(largest_bias);
    return {reduce_max(element), __builtin_sqrtf(reduce_max(squares))};
  }

  void prepare() const {
    WordFacts& facts = *y.facts;
    facts.misses = 0;
    const Extent extent = column_extent(&facts.bias);
    facts.inverse = 1.0f / A::unit(extent.element, extent.norm);
    if (!(facts.inverse > 1 / kLargestScale && facts.inverse < kLargestScale)) facts.misses = INT32_MAX / 2;
    vf norm = zero();
    for (int64_t first = 0; first < c.panels * kPanel; first += W) norm = max(norm, pack_columns_at(first));
    facts.norm = reduce_max(norm);
  }

  // The norms of W columns.
  vf pack_columns_at(int64_t first) const {
    const vi use = first < c.columns ? usable(first) : vi{};
    const int64_t panel = first / kPanel;
    vf squares[2];
    vi sum;
    pack_words<A>(c.packed + panel * c.words * kPanel + first % kPanel, kPanel, c.words, y.facts->inverse, 0, use,
                  y.packed + panel * y.words * kPanel + first % kPanel, kPanel, squares, &sum);
    const vf norm = root_above(squares[0]);
    store(y.norm + first, select(use, norm, set(kNever)));
    store(y.lost + first, root_above(squares[1]));
    store_int(y.shift + first, sum * A::kRowShift);
    return norm;
  }

  // Rows in integers; false where float32 cannot tell what they are.
  struct Block {
    float inverse, norm, lost, slack;
  };
  bool pack_rows(const LaneRows<InFloats>& rows, int32_t* out, Block* block) const {
    vf element = zero();
    vf squares = zero();
    for (int64_t v = 0; v < rows.vectors; ++v) {
      vf own = zero();
      for (int64_t w = 0; w < rows.words; ++w) {
        const vf value = load(rows.packed + (v * rows.words + w) * W);
        element = max(abs(value), element);
        own = fma(value, value, own);
      }
      squares = select(own <= squares, squares, own);  // keeps a NaN
      if (__builtin_expect(reduce_max(abs(own)) == __builtin_inff(), false)) return false;
    }
    const float norm = __builtin_sqrtf(reduce_max(squares));
    float unit = A::unit(reduce_max(element), norm);
    const float least = y.facts->bias * y.facts->inverse * (1.01f / kIntegerBias);
    unit = unit > least ? unit : least;
    block->inverse = 1.0f / unit;
    if (!(block->inverse > 1 / kLargestScale && block->inverse < kLargestScale)) return false;
    vf largest = zero();
    vf lost = zero();
    for (int64_t v = 0; v < rows.vectors; ++v) {
      vf own[2];
      vi sum;
      pack_words<A>(rows.packed + v * rows.words * W, W, rows.words, block->inverse, A::kRowShift, set_int(-1),
                    out + v * y.words * W, W, own, &sum);
      largest = max(largest, own[0]);
      lost = max(lost, own[1]);
    }
    block->norm = reduce_max(root_above(largest)) + 4;  // |X| <= |x| + |u|
    block->lost = reduce_max(root_above(lost));
    const float bias = y.facts->bias * (block->inverse * y.facts->inverse);
    block->slack = 2 + static_cast<float>(c.words + 8) * 0x1p-22f * (block->norm * y.facts->norm + bias);
    return true;
  }

  // The bias of the integer sums of some columns.
  void write_bias(const Block& block, int64_t first, int64_t columns, int32_t* out) const {
    const vf scale = set(block.inverse * y.facts->inverse);
    for (int64_t j = 0; j < columns; j += W) {
      const vf norm = load(y.norm + first + j);
      const vf above = fma(load(y.lost + first + j), set(block.norm), norm * block.lost);
      const vi whole = nearest_int(fma(load(c.bias + first + j), scale, above));  // INT32_MIN for -infinity
      store_int(out + j,
                A::kRowShift ? whole - select(whole == INT32_MIN, vi{}, load_int(y.shift + first + j)) : whole);
    }
  }

  // What a bound has to reach, for W rows that have met their first picks.
  vi reach(const Block& block, const Best& best, int64_t first, int64_t count) const {
    vi out = set_int(INT32_MAX);
    const float scale = block.inverse * y.facts->inverse;
    for (int64_t i = 0; i < W && first + i < count; ++i) {
      const float score = reduce_max(load(best.score + (first + i) * W));
      const float least = score * scale - block.slack;
      if (score > kNever) out[i] = least > -0x1p30f * 1.9f ? static_cast<int32_t>(least) - 1 : INT32_MIN + 1;
    }
    return out;
  }

  // Picks with a bound in reach but the first of each row; stops at `room`.
  int64_t list_picks(const LaneRows<InFloats>& rows, const PanelScores<A>& scores, int64_t panels, int32_t first_panel,
                     const vi* reach, PanelPick* picks, int64_t room) const {
    int64_t count = 0;
    for (int64_t p = 0; p < panels && count < room; ++p) {
      for (int64_t v = 0; v < rows.vectors; ++v) {
        const vi bound = load_int(scores.of_panel + (p * rows.vectors + v) * W);
        uint32_t lanes = _mm512_mask_cmp_epi32_mask(kAllLanes, (__m512i)bound, (__m512i)reach[v], _MM_CMPINT_NLT);
        for (; lanes; lanes &= lanes - 1) {
          const int32_t row = static_cast<int32_t>(v * W + __builtin_ctz(lanes));
          if (scores.best[row] != p) picks[count++] = {row, first_panel + static_cast<int32_t>(p)};
        }
      }
    }
    return count;
  }

  // False where bounds leave too many panels.
  bool meet_block(const LaneRows<InFloats>& rows, const PlainRows& plain, const Best& best) const {
    const int64_t most = c.panels < kBoundPanels ? c.panels : kBoundPanels;
    const int64_t room = plain.count * most / 16 + 1;
    const Scratch<int32_t> words(rows.vectors * y.words * W);
    const Scratch<int32_t> bias(most * kPanel);
    const Scratch<int32_t> bounds(most * rows.vectors * W);
    const Scratch<int32_t> firsts(rows.vectors * W);
    const Scratch<PanelPick> picks(plain.count + room + kSmallBlockRows);
    vi least[kSmallBlockRows / W];
    Block block;
    if (!pack_rows(rows, words.data(), &block)) return false;
    clear_best(best, plain.count);
    for (int64_t panel = 0; panel < c.panels; panel += most) {
      const int64_t panels = c.panels - panel < most ? c.panels - panel : most;
      write_bias(block, panel * kPanel, panels * kPanel, bias.data());
      const PanelScores<A> scores{firsts.data(), bounds.data()};
      score_panels<A>({y.packed + panel * y.words * kPanel, bias.data(), y.words, panels},
                      {words.data(), y.words, rows.vectors}, scores);
      for (int64_t i = 0; i < plain.count; ++i) {
        picks[i] = {static_cast<int32_t>(i), static_cast<int32_t>(panel) + firsts[i]};
      }
      meet_all_panel_picks(c, picks.data(), plain.count, plain, best);
      for (int64_t v = 0; v < rows.vectors; ++v) least[v] = reach(block, best, v * W, plain.count);
      const int64_t count = list_picks(rows, scores, panels, static_cast<int32_t>(panel), least, picks.data(), room);
      if (count >= room) return false;
      meet_all_panel_picks(c, picks.data(), count, plain, best);
    }
    return true;
  }

  // False where integers are of no use.
  bool meet(const LaneRows<InFloats>& rows, const PlainRows& plain, const Best& best) const {
    int32_t* misses = &y.facts->misses;
    if (__atomic_load_n(misses, __ATOMIC_RELAXED) > kMostSmallMisses) return false;
    const bool met = meet_block(rows, plain, best);
    __atomic_fetch_add(misses, met ? -1 : 1, __ATOMIC_RELAXED);
    return met;
  }
};

// Both sizes of integers, the faster first.
struct SmallWords {
  float* memory;

  explicit SmallWords(const Panels& c) : memory(c.extra) {}
  static int64_t floats(int64_t width, int64_t panels) {
    return WordColumns<In16Bits>::floats(width, panels) + WordColumns<In8Bits>::floats(width, panels);
  }
  static bool fit(const Panels& c) { return __builtin_cpu_supports("avx512vnni") && c.words > 1; }
  WordSearch<In16Bits> in_16_bits(const Panels& c) const { return {c, {memory, c.words, c.panels}}; }
  WordSearch<In8Bits> in_8_bits(const Panels& c) const {
    return {c, {memory + WordColumns<In16Bits>::floats(c.words, c.panels), c.words, c.panels}};
  }
  // In fewer dimensions too many columns are near.
  static bool fit_8_bits(const Panels& c) { return c.words > 4; }

  void prepare(const Panels& c) const {
    if (!fit(c)) return;
    in_16_bits(c).prepare();
    if (fit_8_bits(c)) in_8_bits(c).prepare();
  }
  bool meet(const Panels& c, const LaneRows<InFloats>& lanes, const PlainRows& rows, const Best& best) const {
    if (!fit(c)) return false;
    if (fit_8_bits(c) && in_8_bits(c).meet(lanes, rows, best)) return true;
    return in_16_bits(c).meet(lanes, rows, best);
  }
};

#endif

}  // namespace
}  // namespace tk
