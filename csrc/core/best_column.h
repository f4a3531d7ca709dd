// SPDX-License-Identifier: Apache-2.0
// For every row its best column, by products that are never stored. Columns are packed into panels of two vectors; a
// register tile of rows meets one panel after the other and keeps, per row and lane, the best score
//   bias_j + <x_i, y_j>, or (bias_j + <x_i, y_j>) * scale_j.
// What bias and scale are, and what becomes of the best, is the caller's Rule:
//   template <class Kind> static constexpr bool kScaled: is there a scale?
//   void finish_columns<Kind>(const Panels&, PackedColumns): writes their bias and scale, and may change them
//   void answer<Kind>(const Panels&, const RowAnswers&): writes the results of up to W rows
//
// The sum of one pair is one chain of additions in ascending d, whatever the tile: cutting the work differently never
// changes a bit. Included by per-ISA files only.
#pragma once
#include "core/bf16_dot.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "core/transpose.h"

namespace tk {
namespace {

// Rows of the register tile: rows x 2 accumulators, 2 columns vectors and 1 row value fit the register file.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#else
constexpr int kRows = 5;
#endif
constexpr int kVectors = 2;
constexpr int kPanel = kVectors * W;

constexpr float kNever = -__builtin_inff();  // the score of a column that may not be chosen
constexpr int64_t kGroupBytes = 256 << 10;   // panels that meet every row tile of a chunk while they are in L2
constexpr int64_t kChunkTiles = 4;           // row tiles of a chunk where a sample is cut
constexpr int64_t kWholeSample = 1 << 21;    // multiply-adds up to which a sample is one chunk
constexpr int64_t kManySamples = 32;         // enough of them to keep every core busy without cutting one
constexpr int64_t kPackedBytes = 32 << 20;   // packed columns held at once where samples are cut

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Rows x, columns y, in elements of one dtype.
struct ColumnSearch {
  const void* x;
  const void* y;
  int64_t batch, rows, columns, width;
  int64_t x_batch_stride, x_row_stride;
  int64_t y_batch_stride, y_row_stride;
};

// The columns of one sample.
struct Panels {
  int64_t b;  // which sample
  int64_t columns, panels, words;
  float* packed;  // [panels][words][kPanel]
  float* scale;   // [panels * kPanel]
  float* bias;    // [panels * kPanel]
  float* extra;   // of the Meet, or null
};

// ---- squares of words -----------------------------------------------------------------------------------------------
template <class Kind>
TK_INLINE vf add_squares(vf x, vf sum) {
#if defined(__AVX512F__)
  if constexpr (Kind::kValues == 2) {
    return fma(Kind::upper(x), Kind::upper(x), fma(Kind::lower(x), Kind::lower(x), sum));
  }
#endif
  return fma(x, x, sum);
}

template <class Kind>
TK_INLINE double exact_square(float word) {
  if constexpr (Kind::kValues == 2) {
    const uint32_t bits = detail::bit_cast<uint32_t>(word);
    const double low = detail::bit_cast<float>(bits << 16);
    const double high = detail::bit_cast<float>(bits & 0xffff0000u);
    return low * low + high * high;
  }
  return static_cast<double>(word) * word;
}

template <class Kind>
double exact_norm(const float* words, int64_t stride, int64_t count) {
  double sum = 0;
  for (int64_t w = 0; w < count; ++w) sum += exact_square<Kind>(words[w * stride]);
  return __builtin_sqrt(sum);
}

// 1 / |v| from |v|^2, 0 for a zero vector, NaN where the vector holds a NaN or an infinity. `exact(i)` is the norm of
// lane i in double, asked for where float32 may have overflowed or lost digits.
template <class Exact>
TK_INLINE vf inverse_norm(vf squares, Exact exact) {
  vf inverse;
  bool doubtful[W];
  bool any = false;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    inverse[i] = 1.0f / __builtin_sqrtf(squares[i]);
    doubtful[i] = !(squares[i] > 1e-30f && squares[i] < 1e30f);
    any |= doubtful[i];
  }
  for (int i = 0; any && i < W; ++i) {
    if (!doubtful[i]) continue;
    const double norm = exact(i);
    const double exact_inverse = norm < 1e300 ? 1.0 / norm : __builtin_nan("");
    inverse[i] = norm < 0x1p-126 ? 0.0f : static_cast<float>(exact_inverse);
  }
  return inverse;
}

// ---- packing ------------------------------------------------------------------------------------------------------
constexpr int kChains = 4;  // sums of squares side by side

// `depth` words of W columns, transposed into rows kPanel apart.
template <class Kind>
TK_INLINE void transpose_words(vf (&words)[W], int depth, float* out, vf (&squares)[kChains]) {
  transpose(words);
#pragma GCC unroll 16
  for (int k = 0; k < W; ++k) {
    if (k < depth) store(out + k * kPanel, words[k]);
    squares[k % kChains] = add_squares<Kind>(words[k], squares[k % kChains]);
  }
}

// W columns, transposed to [words][kPanel]. Lanes past the end repeat the first column. Returns |column|^2.
template <class Kind, class T>
vf pack_columns(const T* y, int64_t stride, int64_t present, int64_t width, float* out) {
  const T* from[W];
  for (int i = 0; i < W; ++i) from[i] = y + (i < present ? i : 0) * stride;
  vf squares[kChains] = {};
  vf words[W];
  const int64_t count = Kind::words(width);
  const int64_t whole = Kind::whole_words(width) / W * W;
  for (int64_t w = 0; w < whole; w += W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) words[i] = Kind::load_words(from[i], w);
    transpose_words<Kind>(words, W, out + w * kPanel, squares);
  }
  if (whole < count) {
    for (int i = 0; i < W; ++i) words[i] = Kind::load_rest(from[i], whole, width);
    transpose_words<Kind>(words, static_cast<int>(count - whole), out + whole * kPanel, squares);
  }
  return (squares[0] + squares[1]) + (squares[2] + squares[3]);
}

// W columns, just packed.
struct PackedColumns {
  int64_t first, present;  // index of the first, and how many of the W exist
  float* words;            // [words][kPanel]
  vf squares;              // |column|^2
};

template <class Kind>
TK_INLINE vf inverse_norm(const PackedColumns& columns, int64_t words) {
  return inverse_norm(columns.squares, [&](int i) { return exact_norm<Kind>(columns.words + i, kPanel, words); });
}

// For cosines: columns of single floats become unit vectors, others are scaled after the product.
template <class Kind>
constexpr bool kUnitColumns = Kind::kValues == 1;

template <class Kind>
TK_INLINE void make_unit(const Panels& p, const PackedColumns& columns) {
  const vf scale = inverse_norm<Kind>(columns, p.words);
  store(p.scale + columns.first, scale);
#pragma GCC unroll 4
  for (int64_t w = 0; kUnitColumns<Kind> && w < p.words; ++w) {
    float* word = columns.words + w * kPanel;
    store(word, load(word) * scale);
  }
}

template <class Kind, class T, class Rule>
void pack_panel(const ColumnSearch& s, const Panels& p, int64_t panel, const Rule& rule) {
  float* packed = p.packed + panel * p.words * kPanel;
  for (int v = 0; v < kVectors; ++v) {
    const int64_t first = panel * kPanel + v * W;
    if (first >= p.columns) break;  // no tile reads it
    const T* from = static_cast<const T*>(s.y) + p.b * s.y_batch_stride + first * s.y_row_stride;
    const int64_t present = p.columns - first < W ? p.columns - first : W;
    PackedColumns columns{first, present, packed + v * W, zero()};
    columns.squares = pack_columns<Kind>(from, s.y_row_stride, present, s.width, columns.words);
    rule.template finish_columns<Kind>(p, columns);
  }
}

// ---- rows x panels ------------------------------------------------------------------------------------------------
// The running best of a block of rows: per row one vector of scores and one of column groups (column / W).
struct Best {
  float* score;
  int32_t* group;
};

struct Tile {
  const float* rows;  // words
  int64_t stride;
  Best best;
};

// sum = bias + rows x one panel, each sum one chain.
template <class Kind, int R, int V>
TK_INLINE void multiply_panel(const float* rows, int64_t stride, const float* panel, int64_t words, const float* bias,
                              vf (&sum)[R][V]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[i][v] = load(bias + v * W);
  }
  for (int64_t w = 0; w < words; ++w) {
    vf column[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) column[v] = load(panel + w * kPanel + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const vf x = set(rows[i * stride + w]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[i][v] = Kind::dot(x, column[v], sum[i][v]);
    }
  }
}

template <class Kind, bool kScaled, int R, int V>
TK_INLINE void meet_panel(const Panels& c, const Tile& t, int64_t p) {
  vf sum[R][V];
  multiply_panel<Kind>(t.rows, t.stride, c.packed + p * c.words * kPanel, c.words, c.bias + p * kPanel, sum);
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    vf score = load(t.best.score + i * W);
    vi where = load_int(t.best.group + i * W);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const vf offered = kScaled ? sum[i][v] * load(c.scale + p * kPanel + v * W) : sum[i][v];
      const vi better = offered > score;  // false for a NaN; the earlier column keeps a tie
      score = select(better, offered, score);
      where = select(better, set_int(static_cast<int32_t>(p * kVectors + v)), where);
    }
    store(t.best.score + i * W, score);
    store_int(t.best.group + i * W, where);
  }
}

template <class Kind, bool kScaled, int R>
void meet_panels(const Panels& c, const Tile& t, int64_t begin, int64_t end) {
  for (int64_t p = begin; p < end; ++p) {
    if (c.columns - p * kPanel > W) {
      meet_panel<Kind, kScaled, R, kVectors>(c, t, p);
    } else {
      meet_panel<Kind, kScaled, R, 1>(c, t, p);
    }
  }
}

template <class Kind, bool kScaled, int R>
void meet_with_rows(int64_t rows, const Panels& c, const Tile& t, int64_t begin, int64_t end) {
  if (rows == R) return meet_panels<Kind, kScaled, R>(c, t, begin, end);
  if constexpr (R > 1) meet_with_rows<Kind, kScaled, R - 1>(rows, c, t, begin, end);
}

// ---- answers ------------------------------------------------------------------------------------------------------
// Best of the W lanes of W rows at once: transposed, lane l of every row stands in one vector.
TK_INLINE void reduce_lanes(const Best& best, vf* score, vi* column) {
  vf scores[W];
  vf groups[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    scores[i] = load(best.score + i * W);
    groups[i] = (vf)load_int(best.group + i * W);
  }
  transpose(scores);
  transpose(groups);
  *score = scores[0];
  *column = (vi)groups[0] * W;
#pragma GCC unroll 16
  for (int lane = 1; lane < W; ++lane) {
    const vi j = (vi)groups[lane] * W + lane;
    const vi better = (scores[lane] > *score) | ((scores[lane] == *score) & (j < *column));
    *score = select(better, scores[lane], *score);
    *column = select(better, j, *column);
  }
}

// |row|^2 of W rows, one a lane.
template <class Kind>
TK_INLINE vf squared_norms(const float* rows, int64_t stride, int64_t present, int64_t words) {
  vf sums[W];
  const int64_t whole = words / W * W;
  for (int i = 0; i < W; ++i) {
    vf sum = zero();
    if (i < present) {
      const float* x = rows + i * stride;
      for (int64_t w = 0; w < whole; w += W) sum = add_squares<Kind>(load(x + w), sum);
      sum = add_squares<Kind>(load_n(x + whole, static_cast<int>(words - whole)), sum);
    }
    sums[i] = sum;
  }
  transpose(sums);
  vf total = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < W; ++i) total += sums[i];
  return total;
}

// Up to W rows of one sample that have met every column.
struct RowAnswers {
  int64_t first, present;  // index of the first, and how many of the W exist
  vf score;                // best of all columns, kNever where none may be chosen
  vi column;               // the lowest that reaches it
  vf squares;              // |row|^2
  const float* rows;       // words
  int64_t stride;
};

template <class Kind>
TK_INLINE vf inverse_norm(const RowAnswers& r, int64_t words) {
  return inverse_norm(r.squares, [&](int lane) {
    return lane < r.present ? exact_norm<Kind>(r.rows + lane * r.stride, 1, words) : 0.0;
  });
}

// ---- chunks -------------------------------------------------------------------------------------------------------
struct RowBlock {
  int64_t first, count;
};

template <class Kind, class T>
void copy_words(const T* from, int64_t stride, int64_t rows, int64_t width, float* to) {
  const int64_t count = Kind::words(width);
  const int64_t whole = Kind::whole_words(width) / W * W;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t w = 0; w < whole; w += W) store(to + i * count + w, Kind::load_words(from + i * stride, w));
    if (whole == count) continue;
    store_n(to + i * count + whole, Kind::load_rest(from + i * stride, whole, width), static_cast<int>(count - whole));
  }
}

inline void clear_best(const Best& best, int64_t rows) {
  for (int64_t i = 0; i < round_up(rows, W) * W; ++i) {
    best.score[i] = kNever;
    best.group[i] = 0;
  }
}

template <class Kind, bool kScaled>
void meet_columns(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Best& best) {
  clear_best(best, k.count);
  const int64_t panel_bytes = c.words * kPanel * static_cast<int64_t>(sizeof(float));
  const int64_t at_once = panel_bytes > 0 && panel_bytes < kGroupBytes ? kGroupBytes / panel_bytes : 1;
  const int64_t tiles = (k.count + kRows - 1) / kRows;
  for (int64_t p = 0; p < c.panels; p += at_once) {
    const int64_t end = p + at_once < c.panels ? p + at_once : c.panels;
    for (int64_t t = 0; t < tiles; ++t) {  // tiles of equal height, so that none is a thin rest
      const int64_t begin = k.count * t / tiles;
      const int64_t count = k.count * (t + 1) / tiles - begin;
      const Tile tile{rows + begin * stride, stride, {best.score + begin * W, best.group + begin * W}};
      meet_with_rows<Kind, kScaled, kRows>(count, c, tile, p, end);
    }
  }
}

template <class Kind, class Rule, class Meet>
void search_block(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Rule& rule, const Meet& meet) {
  const int64_t padded = round_up(k.count, W);
  const Scratch<float> score(padded * W);
  const Scratch<int32_t> group(padded * W);
  meet.template meet<Kind, Rule::template kScaled<Kind>>(c, k, rows, stride, {score.data(), group.data()});
  for (int64_t i = 0; i < k.count; i += W) {
    const int64_t present = k.count - i < W ? k.count - i : W;
    RowAnswers answers{k.first + i, present, zero(), vi{}, zero(), rows + i * stride, stride};
    reduce_lanes({score.data() + i * W, group.data() + i * W}, &answers.score, &answers.column);
    answers.squares = squared_norms<Kind>(answers.rows, stride, present, c.words);
    rule.template answer<Kind>(c, answers);
  }
}

// What is done with a block of rows; another Meet may keep `extra_floats` a sample, filled once it is packed, meet the
// columns another way, or ask for more than the best column.
struct MeetAll {
  int64_t extra_floats(const ColumnSearch&, int64_t) const { return 0; }
  void prepare(const Panels&) const {}
  template <class Kind, bool kScaled>
  void meet(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Best& best) const {
    meet_columns<Kind, kScaled>(c, k, rows, stride, best);
  }
  template <class Kind, class Rule>
  void search(const Panels& c, RowBlock k, const float* rows, int64_t stride, const Rule& rule) const {
    search_block<Kind>(c, k, rows, stride, rule, *this);
  }
};

template <class Kind, class T, class Rule, class Meet>
void search_rows(const ColumnSearch& s, const Panels& c, RowBlock k, const Rule& rule, const Meet& meet) {
  const T* rows = static_cast<const T*>(s.x) + c.b * s.x_batch_stride + k.first * s.x_row_stride;
  if constexpr (sizeof(T) == sizeof(float)) {
    meet.template search<Kind>(c, k, rows, s.x_row_stride, rule);
  } else {
    const Scratch<float> words(k.count * c.words);
    copy_words<Kind>(rows, s.x_row_stride, k.count, s.width, words.data());
    meet.template search<Kind>(c, k, words.data(), c.words, rule);
  }
}

template <class Kind, class T, class Rule, class Meet>
void search_whole_samples(const ColumnSearch& s, int64_t panels, const Rule& rule, const Meet& meet) {
  const int64_t words = Kind::words(s.width);
  parallel_for(s.batch, [&](int64_t b) {
    const Scratch<float> packed(panels * kPanel * words);
    const Scratch<float> scale(panels * kPanel);
    const Scratch<float> bias(panels * kPanel);
    const Panels c{b, s.columns, panels, words, packed.data(), scale.data(), bias.data(), nullptr};
    for (int64_t p = 0; p < panels; ++p) pack_panel<Kind, T>(s, c, p, rule);
    search_rows<Kind, T>(s, c, {0, s.rows}, rule, meet);
  });
}

// Samples are cut into row blocks that share their sample's packed columns.
template <class Kind, class T, class Rule, class Meet>
void search_row_blocks(const ColumnSearch& s, int64_t panels, const Rule& rule, const Meet& meet,
                       int64_t block = kChunkTiles * kRows) {
  const int64_t words = Kind::words(s.width);
  const int64_t lanes = panels * kPanel;
  const int64_t extra = meet.extra_floats(s, panels);
  int64_t at_once = kPackedBytes / static_cast<int64_t>(sizeof(float)) / (lanes * (words + 2) + extra);
  at_once = at_once < 1 ? 1 : at_once < s.batch ? at_once : s.batch;
  const Scratch<float> packed(at_once * lanes * words);
  const Scratch<float> scale(at_once * lanes);
  const Scratch<float> bias(at_once * lanes);
  const Scratch<float> extras(at_once * extra);
  const int64_t blocks = (s.rows + block - 1) / block;
  for (int64_t first = 0; first < s.batch; first += at_once) {
    const int64_t samples = first + at_once < s.batch ? at_once : s.batch - first;
    const auto columns = [&](int64_t i) {
      float* own = packed.data() + i * lanes * words;
      float* own_scale = scale.data() + i * lanes;
      return Panels{
          first + i, s.columns, panels, words, own, own_scale, bias.data() + i * lanes, extras.data() + i * extra};
    };
    parallel_for(samples * panels, [&](int64_t i) { pack_panel<Kind, T>(s, columns(i / panels), i % panels, rule); });
    if (extra > 0) parallel_for(samples, [&](int64_t i) { meet.prepare(columns(i)); });
    parallel_for(samples * blocks, [&](int64_t i) {
      const int64_t row = i % blocks * block;
      search_rows<Kind, T>(s, columns(i / blocks), {row, row + block < s.rows ? block : s.rows - row}, rule, meet);
    });
  }
}

// Few multiply-adds, or many samples: one chunk each.
inline bool keeps_samples_whole(const ColumnSearch& s) {
  return s.rows * s.columns * s.width <= kWholeSample || s.batch >= kManySamples;
}

template <class Kind, class T, class Rule, class Meet = MeetAll>
void search_columns(const ColumnSearch& s, const Rule& rule, const Meet& meet = {}) {
  const int64_t panels = (s.columns + kPanel - 1) / kPanel;
  if (keeps_samples_whole(s)) return search_whole_samples<Kind, T>(s, panels, rule, meet);
  search_row_blocks<Kind, T>(s, panels, rule, meet);
}

}  // namespace
}  // namespace tk
