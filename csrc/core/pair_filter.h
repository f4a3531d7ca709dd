// SPDX-License-Identifier: Apache-2.0
// The best column of a float32 row, found with half the work where the processor multiplies pairs of bfloat16: every
// column is first met in rounded pairs, and those that rounding leaves a chance are met again in float32. What rounding
// may do is bounded by a proof, so the answer has the bits of core/best_column.h alone.
//
// Rows and columns are rounded after the mean column m is taken off both, which moves every score of a row by the same
// amount: x.y + b = (x - m).(y - m) + (b + m.(y - m)) + x.m. What counts is then the spread of the data, not how far
// from the origin they lie. (For cosines the rows stay as they are: x.y + b = x.(y - m) + b + x.m.)
//
// With x = X + u and y = Y + v, X and Y rounded: x.y <= X.Y + |x||v| + |u||Y|. The last two products are one more pair
// of the sum, rounded up, so that the first pass finds an upper bound of every score. It keeps the best and the second
// best of each lane, with the number of the column group in the lowest bits. The float32 scores of the best group are
// then what the other bounds have to reach. Included by per-ISA files only.
#pragma once
#include "core/best_column.h"

namespace tk {
namespace {

#if defined(__AVX512F__)

constexpr int64_t kFilterColumns = 128;  // fewer are not worth two passes
constexpr int64_t kFilterWidth = 16;
constexpr float kLastChoice = -3e38f;  // the score of a column that may not be chosen
constexpr float kTrusted = 1e30f;      // bounds beyond it say nothing
constexpr int kTogether = 4;           // pairs of row and group whose float32 sums run side by side
constexpr int32_t kMostMisses = 8;     // blocks that rounding told nothing about, before none is asked any more

// Of all columns y: the largest norms as they are and without the mean, and what was taken off every bias.
struct ColumnNorms {
  float whole, bias;            // |y|, |b|
  float centred, centred_bias;  // |y - m|, |b + m.(y - m) - level|
  float level;
};

// One sample's columns in pairs.
struct PairPanels {
  ColumnNorms* norms;
  int32_t* misses;  // blocks that gained nothing, less those that gained; huge where no block can
  float* mean;      // [width rounded up to W]
  float* bias;      // [panels * kPanel]
  float* packed;    // [panels][words][kPanel]
  int64_t words;    // the last one bounds what rounding loses

  PairPanels(float* memory, int64_t width, int64_t panels) : words((width + 1) / 2 + 1) {
    norms = reinterpret_cast<ColumnNorms*>(memory);
    misses = reinterpret_cast<int32_t*>(memory + W / 2);
    mean = memory + W;
    bias = mean + round_up(width, W);
    packed = bias + panels * kPanel;
  }
  static int64_t floats(int64_t width, int64_t panels) {
    return W + round_up(width, W) + panels * kPanel * (2 + (width + 1) / 2);
  }
};

// y where either is NaN. GCC makes two instructions of max() and min().
TK_INLINE vf largest(vf x, vf y) { return (vf)_mm512_maskz_max_ps(kAllLanes, (__m512)x, (__m512)y); }
TK_INLINE vf least(vf x, vf y) { return (vf)_mm512_maskz_min_ps(kAllLanes, (__m512)x, (__m512)y); }

// To the nearest bfloat16, for numbers.
TK_INLINE vf rounded(vf x) {
  const vu u = (vu)x;
  return (vf)((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u);
}

// To a bfloat16 that is not smaller, for numbers from 0.
TK_INLINE vf rounded_up(vf x) { return (vf)(((vu)x + 0xffffu) & 0xffff0000u); }

// A norm, no smaller than it is: sums of squares round, and squares below 2^-126 vanish.
TK_INLINE vf norm_above(vf squares, int64_t width) {
  const auto terms = static_cast<float>(width);
  const vf norm = (vf)_mm512_maskz_sqrt_ps(kAllLanes, (__m512)squares);
  return norm * (1 + 0x1p-22f * (terms + 8)) + 0x1p-63f * terms;
}
TK_INLINE float norm_above(float squares, int64_t width) { return norm_above(set(squares), width)[0]; }

// Whether a lane's column may be chosen, as 0 or -1.
TK_INLINE vi usable(const Panels& c, int64_t panel, int v) {
  const float* words = c.packed + panel * c.words * kPanel + v * W;
  vf sum = load(c.bias + panel * kPanel + v * W);
  for (int64_t w = 0; w < c.words; ++w) sum += abs(load(words + w * kPanel));
  return abs(sum) < kTrusted;
}

inline int groups_of(const Panels& c, int64_t panel) { return c.columns - panel * kPanel > W ? kVectors : 1; }

// The mean of the usable columns. False where one that may be chosen is not among them.
inline bool find_mean(const Panels& c, const PairPanels& p) {
  bool complete = true;
  for (int64_t w = 0; w < round_up(c.words, W); ++w) p.mean[w] = 0;
  int64_t count = 0;
  for (int64_t panel = 0; panel < c.panels; ++panel) {
    for (int v = 0; v < groups_of(c, panel); ++v) {
      const vi use = usable(c, panel, v);
      const vf bias = load(c.bias + panel * kPanel + v * W);
      for (int i = 0; i < W; ++i) {
        count -= use[i];
        complete &= use[i] || !(bias[i] > kNever);
      }
      const float* words = c.packed + panel * c.words * kPanel + v * W;
      for (int64_t w = 0; w < c.words; ++w) p.mean[w] += reduce_add(select(use, load(words + w * kPanel), zero()));
    }
  }
  for (int64_t w = 0; w < c.words && count > 0; ++w) p.mean[w] /= static_cast<float>(count);
  return complete;
}

// One group of columns in pairs; adds to the squares of the largest norms.
inline void pack_pairs(const Panels& c, const PairPanels& p, int64_t panel, int v, bool centre_rows,
                       vf (&largest_of)[3]) {
  const vi use = usable(c, panel, v);
  const float* words = c.packed + panel * c.words * kPanel + v * W;
  float* out = p.packed + panel * p.words * kPanel + v * W;
  const vf bias = load(c.bias + panel * kPanel + v * W);
  double shifted[W];
  for (int i = 0; i < W; ++i) shifted[i] = use[i] ? static_cast<double>(bias[i]) : 0.0;
  vf squares[4] = {};  // of y, y - m, rounded, lost
  for (int64_t w = 0; w < c.words; w += 2) {
    vf half[2] = {zero(), zero()};
    for (int h = 0; h < 2 && w + h < c.words; ++h) {
      const vf y = select(use, load(words + (w + h) * kPanel), zero());
      const vf centred = select(use, y - p.mean[w + h], zero());
      half[h] = rounded(centred);
      const vf lost = centred - half[h];
      squares[0] = fma(y, y, squares[0]);
      squares[1] = fma(centred, centred, squares[1]);
      squares[2] = fma(half[h], half[h], squares[2]);
      squares[3] = fma(lost, lost, squares[3]);
      if (!centre_rows) continue;
      for (int i = 0; i < W; ++i) shifted[i] += static_cast<double>(p.mean[w + h]) * centred[i];
    }
    store(out + w / 2 * kPanel, Bf16Pairs::join(half[0], half[1]));
  }
  const vf off = rounded_up(norm_above(squares[3], c.words));
  const vf near = rounded_up(norm_above(squares[2], c.words));
  store(out + (p.words - 1) * kPanel, Bf16Pairs::join(off, near));
  vf moved;
  for (int i = 0; i < W; ++i) moved[i] = static_cast<float>(shifted[i]);
  store(p.bias + panel * kPanel + v * W, select(use, moved, set(kLastChoice)));
  for (int i = 0; i < 2; ++i) largest_of[i] = max(largest_of[i], squares[i]);
  largest_of[2] = max(largest_of[2], select(use, abs(bias), zero()));
}

// A constant taken off every bias changes no choice: the largest becomes 0.
inline void level_biases(const Panels& c, const PairPanels& p) {
  float highest = kLastChoice;
  for (int64_t j = 0; j < c.columns; ++j) highest = p.bias[j] > highest ? p.bias[j] : highest;
  float spread = 0;
  for (int64_t j = 0; j < c.panels * kPanel; ++j) {
    const bool chosen = j < c.columns && p.bias[j] > kLastChoice;
    p.bias[j] = chosen ? p.bias[j] - highest : kLastChoice;
    if (chosen) spread = -p.bias[j] > spread ? -p.bias[j] : spread;
  }
  p.norms->level = highest;
  p.norms->centred_bias = spread;
}

inline void prepare_pairs(const Panels& c, const PairPanels& p, bool centre_rows) {
  *p.misses = find_mean(c, p) ? 0 : INT32_MAX / 2;
  vf squares[3] = {};
  for (int64_t panel = 0; panel < c.panels; ++panel) {
    for (int v = 0; v < groups_of(c, panel); ++v) pack_pairs(c, p, panel, v, centre_rows, squares);
  }
  p.norms->whole = norm_above(reduce_max(squares[0]), c.words);
  p.norms->centred = norm_above(reduce_max(squares[1]), c.words);
  p.norms->bias = reduce_max(squares[2]);
  level_biases(c, p);
}

// ---- rows in pairs --------------------------------------------------------------------------------------------------
// How the scores of a row in pairs lie to those in float32: a bound of the pairs plus `offset` is one of the float32
// score. Not finite where nothing is known.
TK_INLINE float round_row(const Panels& c, const PairPanels& p, const float* x, bool centre, int group_bits,
                          bf16_t* out) {
  vf squares[3] = {};  // of x, x - m, lost
  vf along = zero();   // x.m
  for (int64_t d = 0; d < c.words; d += W) {
    const int64_t rest = c.words - d;
    const vf value = rest < W ? load_n(x + d, static_cast<int>(rest)) : load(x + d);
    const vf mean = load(p.mean + d);
    const vf moved = centre ? value - mean : value;
    const vf near = rounded(moved);
    const vf lost = moved - near;
    squares[0] = fma(value, value, squares[0]);
    squares[1] = fma(moved, moved, squares[1]);
    squares[2] = fma(lost, lost, squares[2]);
    along = fma(value, mean, along);
    store(out + d, near);
  }
  const ColumnNorms& n = *p.norms;
  const float whole = norm_above(reduce_add(squares[0]), c.words);
  const float centred = norm_above(reduce_add(squares[1]), c.words);
  const float lost = norm_above(reduce_add(squares[2]), c.words);
  store_n(out + 2 * p.words - 2, rounded_up(set(centred)), 1);
  store_n(out + 2 * p.words - 1, rounded_up(set(lost)), 1);
  const auto width = static_cast<float>(c.words);
  const float sums =
      0x1p-22f * (width + 6 + static_cast<float>(1 << group_bits)) * (1.02f * centred * n.centred + n.centred_bias);
  const float exact = 0x1p-22f * (width + 4) * (whole * n.whole + n.bias);  // of the score itself, of `along`
  const float vanished = 0x1p-120f * width * (1 + centred + n.centred);     // subnormal numbers count as zeros
  return reduce_add(along) + n.level + (sums + exact + vanished);
}

struct PairTile {
  const float* rows;  // pairs
  int64_t stride;
  float* best;    // [rows][W]
  float* second;  // [rows][W]
  int32_t mask;   // of the bits of a score that stay
};

template <int R, int V>
TK_INLINE void meet_pair_panel(const PairPanels& c, const PairTile& t, int64_t p) {
  vf sum[R][V];
  multiply_panel<Bf16Pairs>(t.rows, t.stride, c.packed + p * c.words * kPanel, c.words, c.bias + p * kPanel, sum);
  const vi mask = set_int(t.mask);
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    vf best = load(t.best + i * W);
    vf second = load(t.second + i * W);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const vf score = (vf)(((vi)sum[i][v] & mask) | set_int(static_cast<int32_t>(p * kVectors + v)));
      second = largest(least(score, best), second);
      best = largest(score, best);
    }
    store(t.best + i * W, best);
    store(t.second + i * W, second);
  }
}

template <int R>
void meet_pair_panels(const Panels& c, const PairPanels& pairs, const PairTile& t, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    if (groups_of(c, p) == kVectors) {
      meet_pair_panel<R, kVectors>(pairs, t, p);
    } else {
      meet_pair_panel<R, 1>(pairs, t, p);
    }
  }
}

template <int R>
void meet_pairs_with_rows(int64_t rows, const Panels& c, const PairPanels& pairs, const PairTile& t, int64_t begin,
                          int64_t end) {
  if (rows == R) return meet_pair_panels<R>(c, pairs, t, begin, end);
  if constexpr (R > 1) meet_pairs_with_rows<R - 1>(rows, c, pairs, t, begin, end);
}

// ---- float32 for those that are left --------------------------------------------------------------------------------
struct GroupPick {
  int32_t row, group;
};

// The scores of kTogether picks, each one chain as in meet_panel.
inline void meet_picks(const Panels& c, const GroupPick* picks, int count, const float* rows, int64_t stride,
                       const Best& best) {
  const float* x[kTogether];
  const float* y[kTogether];
  vf sum[kTogether];
  for (int i = 0; i < kTogether; ++i) {
    const GroupPick& pick = picks[i < count ? i : 0];
    x[i] = rows + pick.row * stride;
    y[i] = c.packed + pick.group / kVectors * c.words * kPanel + pick.group % kVectors * W;
    sum[i] = load(c.bias + pick.group * W);
  }
  for (int64_t w = 0; w < c.words; ++w) {
#pragma GCC unroll 8
    for (int i = 0; i < kTogether; ++i) sum[i] = fma(set(x[i][w]), load(y[i] + w * kPanel), sum[i]);
  }
  for (int i = 0; i < count; ++i) {
    float* score = best.score + picks[i].row * W;
    int32_t* group = best.group + picks[i].row * W;
    const vf known = load(score);
    const vi where = load_int(group);
    const vi own = set_int(picks[i].group);
    const vi better = (sum[i] > known) | ((sum[i] == known) & (own < where));
    store(score, select(better, sum[i], known));
    store_int(group, select(better, own, where));
  }
}

TK_INLINE uint32_t lanes_at_least(vf x, float y) {
  return _mm512_mask_cmp_ps_mask(kAllLanes, (__m512)x, (__m512)set(y), _CMP_GE_OQ);
}

TK_INLINE int32_t group_in(const PairTile& t, int64_t row, int lane) {
  return load_int(reinterpret_cast<const int32_t*>(t.best + row * W))[lane] & ~t.mask;
}

// The group with the highest bound.
TK_INLINE GroupPick first_pick(const PairTile& t, int64_t row) {
  const vf best = load(t.best + row * W);
  const uint32_t lanes = lanes_at_least(best, reduce_max(best));
  return {static_cast<int32_t>(row), lanes ? group_in(t, row, __builtin_ctz(lanes)) : 0};
}

// The other groups of a row that may hold its best column; `room` where there are too many to list. `reach` is what a
// bound has to reach.
TK_INLINE int64_t other_picks(const Panels& c, const PairTile& t, GroupPick first, float reach, GroupPick* picks,
                              int64_t room) {
  const vf best = load(t.best + first.row * W);
  const int64_t groups = (c.columns + W - 1) / W;
  int64_t count = 0;
  if (!(reach > -kTrusted && reach < kTrusted) || lanes_at_least(load(t.second + first.row * W), reach)) {
    if (groups > room) return room;
    for (int32_t g = 0; g < groups; ++g) picks[count++] = {first.row, g};
    return count;
  }
  for (uint32_t lanes = lanes_at_least(best, reach); lanes && count < room; lanes &= lanes - 1) {
    const int32_t group = group_in(t, first.row, __builtin_ctz(lanes));
    if (group != first.group) picks[count++] = {first.row, group};
  }
  return count;
}

inline void meet_all_picks(const Panels& c, const GroupPick* picks, int64_t count, const float* rows, int64_t stride,
                           const Best& best) {
  for (int64_t i = 0; i < count; i += kTogether) {
    const int64_t some = count - i < kTogether ? count - i : kTogether;
    meet_picks(c, picks + i, static_cast<int>(some), rows, stride, best);
  }
}

// Fills the best of a block of rows; false where rounding leaves too many columns.
inline bool meet_pairs_first(const Panels& c, const PairPanels& p, RowBlock k, const float* rows, int64_t stride,
                             bool centre, const Best& best) {
  const int64_t pitch = round_up(c.words, W) + W;  // the last pair may stand behind whole vectors
  const int64_t groups = (c.columns + W - 1) / W;
  const int64_t room = k.count * groups / 4;  // picks cost more than columns met in order
  const Scratch<bf16_t> pairs(k.count * pitch);
  const Scratch<float> offsets(k.count);
  const Scratch<float> first(2 * k.count * W);
  const Scratch<GroupPick> picks(k.count + room);
  int bits = 0;
  while ((int64_t{1} << bits) < groups) ++bits;
  for (int64_t i = 0; i < k.count; ++i) {
    offsets[i] = round_row(c, p, rows + i * stride, centre, bits, pairs.data() + i * pitch);
  }
  for (int64_t i = 0; i < 2 * k.count * W; ++i) first[i] = kLastChoice;
  const auto* words = reinterpret_cast<const float*>(pairs.data());
  const PairTile all{words, pitch / 2, first.data(), first.data() + k.count * W, -(1 << bits)};
  const int64_t panel_bytes = p.words * kPanel * static_cast<int64_t>(sizeof(float));
  const int64_t at_once = panel_bytes < kGroupBytes ? kGroupBytes / panel_bytes : 1;
  const int64_t tiles = (k.count + kRows - 1) / kRows;
  for (int64_t begin = 0; begin < c.panels; begin += at_once) {
    const int64_t end = begin + at_once < c.panels ? begin + at_once : c.panels;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = k.count * t / tiles;
      const int64_t count = k.count * (t + 1) / tiles - row;
      const PairTile tile{all.rows + row * all.stride, all.stride, all.best + row * W, all.second + row * W, all.mask};
      meet_pairs_with_rows<kRows>(count, c, p, tile, begin, end);
    }
  }
  clear_best(best, k.count);
  for (int64_t i = 0; i < k.count; ++i) picks[i] = first_pick(all, i);
  meet_all_picks(c, picks.data(), k.count, rows, stride, best);
  GroupPick* more = picks.data() + k.count;
  int64_t count = 0;
  for (int64_t i = 0; i < k.count && count < room; ++i) {
    const float reach = reduce_max(load(best.score + i * W)) - offsets[i];
    count += other_picks(c, all, picks[i], reach, more + count, room - count);
  }
  if (count >= room) return false;
  meet_all_picks(c, more, count, rows, stride, best);
  return true;
}

// How a block of float32 rows meets all columns (see MeetAll of core/best_column.h).
struct MeetPairsFirst {
  bool centre_rows;

  static bool fits(const ColumnSearch& s) {
    return multiplies_pairs() && s.columns >= kFilterColumns && s.width >= kFilterWidth;
  }
  int64_t extra_floats(const ColumnSearch& s, int64_t panels) const { return PairPanels::floats(s.width, panels); }
  void prepare(const Panels& c) const { prepare_pairs(c, PairPanels(c.extra, c.words, c.panels), centre_rows); }

  template <class Kind, bool kScaled>
  void meet(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Best& best) const {
    const PairPanels pairs(c.extra, c.words, c.panels);
    if (__atomic_load_n(pairs.misses, __ATOMIC_RELAXED) <= kMostMisses) {
      const bool met = meet_pairs_first(c, pairs, k, rows, stride, centre_rows, best);
      __atomic_fetch_add(pairs.misses, met ? -1 : 1, __ATOMIC_RELAXED);
      if (met) return;
    }
    meet_columns<Kind, kScaled>(c, k, rows, stride, best);
  }
  template <class Kind, class Rule>
  void search(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Rule& rule) const {
    search_block<Kind>(c, k, rows, stride, rule, *this);
  }
};

#endif

}  // namespace
}  // namespace tk
