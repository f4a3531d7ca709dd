// SPDX-License-Identifier: Apache-2.0
// The best column of a row where vectors are at most kSmallWidth long: rows in lanes (core/small_tile.h), where the
// processor can in integers first (core/small_words.h). Same bits as core/best_column.h alone. Included by per-ISA
// files only.
#pragma once
#include "core/small_tile.h"
#include "core/small_words.h"

namespace tk {
namespace {

constexpr int64_t kSmallWidth = 16;
constexpr int64_t kSmallColumns = 256;  // fewer columns or rows are not worth the way there
constexpr int64_t kSmallRows = 64;

inline void put_rows_in_lanes(const PlainRows& rows, int64_t words, float* out) {
  vf value[W];
  for (int64_t first = 0; first < rows.count; first += W) {
    for (int64_t w = 0; w < words; w += W) {
      const int64_t rest = words - w;
      for (int64_t i = 0; i < W; ++i) {
        const float* row = rows.data + (first + i) * rows.stride + w;
        value[i] = first + i >= rows.count ? zero() : rest < W ? load_n(row, static_cast<int>(rest)) : load(row);
      }
      transpose(value);
      for (int64_t i = 0; i < W && i < rest; ++i) store(out + first * words + (w + i) * W, value[i]);
    }
  }
}

inline void meet_in_floats(const Panels& c, const LaneRows<InFloats>& lanes, const PlainRows& rows, const Best& best) {
  const Scratch<int32_t> panels(lanes.vectors * W);
  const Scratch<PanelPick> picks(rows.count);
  score_panels<InFloats>({c.packed, c.bias, c.words, c.panels}, lanes, {panels.data(), nullptr});
  for (int64_t i = 0; i < rows.count; ++i) picks[i] = {static_cast<int32_t>(i), panels[i]};
  meet_all_panel_picks(c, picks.data(), rows.count, rows, best);
}

// How a block of rows meets short columns (see MeetAll of core/best_column.h).
struct MeetSmall {
  static bool fits(const ColumnSearch& s) {
    return s.width > 0 && s.width <= kSmallWidth && s.columns >= kSmallColumns && s.rows >= kSmallRows;
  }
#if defined(__AVX512F__)
  int64_t extra_floats(const ColumnSearch& s, int64_t panels) const { return SmallWords::floats(s.width, panels); }
#else
  int64_t extra_floats(const ColumnSearch&, int64_t) const { return 1; }
#endif
  void prepare(const Panels& c) const {
    // The columns past the last vector, which nothing else reads.
    for (int64_t j = round_up(c.columns, W); j < c.panels * kPanel; ++j) c.bias[j] = kNever;
#if defined(__AVX512F__)
    SmallWords(c).prepare(c);
#endif
  }

  template <class Kind, bool kScaled>
  void meet(const Panels& c, RowBlock k, const float* x, int64_t stride, const Best& best) const {
    static_assert(Kind::kValues == 1 && !kScaled);
    const int64_t vectors = (k.count + W - 1) / W;
    const PlainRows rows{x, stride, k.count};
    const Scratch<float> packed(vectors * c.words * W);
    const LaneRows<InFloats> lanes{packed.data(), c.words, vectors};
    put_rows_in_lanes(rows, c.words, packed.data());
#if defined(__AVX512F__)
    if (SmallWords(c).meet(c, lanes, rows, best)) return;
#endif
    clear_best(best, k.count);
    meet_in_floats(c, lanes, rows, best);
  }
  template <class Kind, class Rule>
  void search(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Rule& rule) const {
    search_block<Kind>(c, k, rows, stride, rule, *this);
  }
};

template <class Kind, class T, class Rule>
void search_small_columns(const ColumnSearch& s, const Rule& rule) {
  search_row_blocks<Kind, T>(s, (s.columns + kPanel - 1) / kPanel, rule, MeetSmall{}, kSmallBlockRows);
}

}  // namespace
}  // namespace tk
