// SPDX-License-Identifier: Apache-2.0
// Rows in lanes against short columns. A register tile of vectors of rows meets one column after the other and keeps
// nothing but the highest score of each panel of columns; where that rises, the panel's number is noted. What a score
// is made of is an Arithmetic:
//   vector, scalar       of the sums
//   kValues              how many values of a row a word holds
//   vector dot(x, y, sum), higher(score, known), not_yet(); `higher` returns `known` for a NaN
// Panels that may hold a row's best column are met again, columns in lanes, by the chain of additions of
// core/best_column.h, so that the answer has the bits of that file. Included by per-ISA files only.
#pragma once
#include "core/best_column.h"

namespace tk {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRowVectors = 4;  // of the register tile
#else
constexpr int kRowVectors = 2;
#endif
constexpr int kTileColumns = 4;          // of the register tile; kPanel is a multiple
constexpr int64_t kSmallBlockRows = 64;  // rows that meet all columns at once
constexpr int kPicksTogether = 4;        // whose sums run side by side

struct InFloats {
  using vector = vf;
  using scalar = float;
  static constexpr int kValues = 1;

  TK_INLINE vf spread(float x) { return set(x); }
  TK_INLINE vf dot(vf x, vf y, vf sum) { return fma(x, y, sum); }
  TK_INLINE vf not_yet() { return set(kNever); }
#if defined(__AVX512F__)  // GCC makes two instructions of max()
  TK_INLINE vf higher(vf score, vf known) { return (vf)_mm512_maskz_max_ps(kAllLanes, (__m512)score, (__m512)known); }
#else
  TK_INLINE vf higher(vf score, vf known) { return max(score, known); }
#endif
};

// Words of rows in lanes: [vectors][words][W].
template <class Arithmetic>
struct LaneRows {
  const typename Arithmetic::scalar* packed;
  int64_t words, vectors;
};

// Columns, as Panels has them.
template <class Arithmetic>
struct WordPanels {
  const typename Arithmetic::scalar* packed;  // [panels][words][kPanel]
  const typename Arithmetic::scalar* bias;    // [panels][kPanel]
  int64_t words, panels;
};

// What has been found of rows in lanes.
template <class Arithmetic>
struct PanelScores {
  int32_t* best;                          // [vectors][W]: the first panel that holds the best score
  typename Arithmetic::scalar* of_panel;  // [panels][vectors][W]: the best score of each; or null
};

// The highest score of one panel for each row of R vectors.
template <class A, int kWords, int R>
TK_INLINE void meet_panel_values(const typename A::scalar* rows, const typename A::scalar* panel,
                                 const typename A::scalar* bias, int64_t words, typename A::vector (&highest)[R]) {
  using vector = typename A::vector;
  const int64_t count = kWords > 0 ? kWords : words;
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) highest[i] = A::not_yet();
  for (int c = 0; c < kPanel; c += kTileColumns) {
    vector sum[kTileColumns][R];
#pragma GCC unroll 4
    for (int j = 0; j < kTileColumns; ++j) {
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) sum[j][i] = A::spread(bias[c + j]);
    }
#pragma GCC unroll 8
    for (int64_t w = 0; w < count; ++w) {
      vector x[R];
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) __builtin_memcpy(&x[i], rows + (i * count + w) * W, sizeof x[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kTileColumns; ++j) {
        const vector y = A::spread(panel[w * kPanel + c + j]);
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) sum[j][i] = A::dot(x[i], y, sum[j][i]);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kTileColumns; ++j) {
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) highest[i] = A::higher(sum[j][i], highest[i]);
    }
  }
}

template <class A, int kWords, int R>
void score_panels(const WordPanels<A>& c, const typename A::scalar* rows, const PanelScores<A>& out, int64_t vectors) {
  using vector = typename A::vector;
  vector best[R];
  vi where[R];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
    best[i] = A::not_yet();
    where[i] = vi{};
  }
  for (int64_t p = 0; p < c.panels; ++p) {
    vector highest[R];
    meet_panel_values<A, kWords, R>(rows, c.packed + p * c.words * kPanel, c.bias + p * kPanel, c.words, highest);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      where[i] = select(highest[i] > best[i], set_int(static_cast<int32_t>(p)), where[i]);
      best[i] = A::higher(highest[i], best[i]);
      if (out.of_panel) __builtin_memcpy(out.of_panel + (p * vectors + i) * W, &highest[i], sizeof highest[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) store_int(out.best + i * W, where[i]);
}

template <class A, int kWords>
void score_panels(const WordPanels<A>& c, const LaneRows<A>& rows, const PanelScores<A>& out) {
  int64_t v = 0;
  const auto from = [&](int64_t first) {
    return PanelScores<A>{out.best + first * W, out.of_panel ? out.of_panel + first * W : nullptr};
  };
  for (; v + kRowVectors <= rows.vectors; v += kRowVectors) {
    score_panels<A, kWords, kRowVectors>(c, rows.packed + v * c.words * W, from(v), rows.vectors);
  }
  for (; v < rows.vectors; ++v) {
    score_panels<A, kWords, 1>(c, rows.packed + v * c.words * W, from(v), rows.vectors);
  }
}

template <class A>
void score_panels(const WordPanels<A>& c, const LaneRows<A>& rows, const PanelScores<A>& out) {
  switch (c.words) {
    case 1:
      return score_panels<A, 1>(c, rows, out);
    case 2:
      return score_panels<A, 2>(c, rows, out);
    case 4:
      return score_panels<A, 4>(c, rows, out);
    case 8:
      return score_panels<A, 8>(c, rows, out);
    default:
      return score_panels<A, 0>(c, rows, out);
  }
}

// ---- panels met again ---------------------------------------------------------------------------------------------
// A row, and a panel that may hold its best column.
struct PanelPick {
  int32_t row, panel;
};

// A block of rows as they came.
struct PlainRows {
  const float* data;
  int64_t stride, count;
};

// Adds the scores of one pick to what is known of its row.
TK_INLINE void note_pick(PanelPick pick, const vf (&sum)[kVectors], const Best& best) {
  float* score = best.score + int64_t{pick.row} * W;
  int32_t* group = best.group + int64_t{pick.row} * W;
  vf known = load(score);
  vi where = load_int(group);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const vi own = set_int(pick.panel * kVectors + v);
    const vi better = (sum[v] > known) | ((sum[v] == known) & (own < where));
    known = select(better, sum[v], known);
    where = select(better, own, where);
  }
  store(score, known);
  store_int(group, where);
}

// The scores of some picks, columns in lanes, each one chain as in meet_panel. A pick may come twice.
inline void meet_panel_picks(const Panels& c, const PanelPick* picks, int count, const PlainRows& rows,
                             const Best& best) {
  const float* x[kPicksTogether];
  const float* y[kPicksTogether];
  vf sum[kPicksTogether][kVectors];
  for (int i = 0; i < kPicksTogether; ++i) {
    const PanelPick& pick = picks[i < count ? i : 0];
    x[i] = rows.data + pick.row * rows.stride;
    y[i] = c.packed + pick.panel * c.words * kPanel;
    for (int v = 0; v < kVectors; ++v) sum[i][v] = load(c.bias + pick.panel * kPanel + v * W);
  }
  for (int64_t w = 0; w < c.words; ++w) {
#pragma GCC unroll 4
    for (int i = 0; i < kPicksTogether; ++i) {
      const vf value = set(x[i][w]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] = fma(value, load(y[i] + w * kPanel + v * W), sum[i][v]);
    }
  }
  for (int i = 0; i < count; ++i) note_pick(picks[i], sum[i], best);
}

inline void meet_all_panel_picks(const Panels& c, const PanelPick* picks, int64_t count, const PlainRows& rows,
                                 const Best& best) {
  for (int64_t i = 0; i < count; i += kPicksTogether) {
    const int64_t some = count - i < kPicksTogether ? count - i : kPicksTogether;
    meet_panel_picks(c, picks + i, static_cast<int>(some), rows, best);
  }
}

}  // namespace
}  // namespace tk
