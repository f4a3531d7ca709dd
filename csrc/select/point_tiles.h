// SPDX-License-Identifier: Apache-2.0
// Distances between rows of one sample, for the per-ISA files: a few rows lie transposed in panels, and tiles of
// other rows meet them in registers (core/best_column.h). Rows are brought to float32, and for cosines to unit length,
// where they are packed or copied, so nothing of the size of x is kept.
//
// The sum of one pair is one chain in ascending d, whatever the tile, and the same for (i, j) and (j, i).
#pragma once
#include "core/best_column.h"
#include "select/farthest_points.h"

namespace tk::selection {
namespace {

constexpr float kInf = __builtin_inff();
constexpr int64_t kChunkProducts = 4 << 20;  // multiply-adds that are worth a task of their own

TK_INLINE float reduce_min(vf x) {
  return reduce(x, [](vf a, vf b) __attribute__((always_inline)) { return min(a, b); });
}

// In place of products: squares of differences.
struct Differences : Floats {
  TK_INLINE vf dot(vf x, vf y, vf sum) { return fma(x - y, x - y, sum); }
};

template <class Kind>
constexpr bool kSquared = false;
template <>
constexpr bool kSquared<Differences> = true;

// What multiply_panel found, as a distance; of Differences the square of one.
template <class Kind>
TK_INLINE vf gap_of(vf sum) {
  if constexpr (kSquared<Kind>) return sum;
  return max(1.0f - sum, zero());
}

template <class Kind>
TK_INLINE float root_of(float gap) {
  return kSquared<Kind> ? __builtin_sqrtf(gap) : gap;
}

// One sample.
template <class T>
struct Points {
  const T* x;
  int64_t stride, rows, width;
  const float* scale;  // what the elements of a row are multiplied by; NaN where it is not finite
  const T* row(int64_t j) const { return x + j * stride; }
};

// ---- scales -------------------------------------------------------------------------------------------------------
template <class T>
double exact_squares(const T* x, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(to_float(x[d])) * to_float(x[d]);
  return sum;
}

template <class T>
float squares_of(const T* x, int64_t width) {
  vf sums[4] = {};
  const int64_t whole = width / W * W;
  for (int64_t d = 0; d < whole; d += W) {
    const vf value = load(x + d);
    sums[d / W % 4] = fma(value, value, sums[d / W % 4]);
  }
  const vf rest = load_n(x + whole, static_cast<int>(width - whole));
  return reduce_add((sums[0] + sums[1]) + (sums[2] + fma(rest, rest, sums[3])));
}

template <class Kind, class T>
float scale_of(const T* x, int64_t width) {
  const float squares = squares_of(x, width);
  if constexpr (kSquared<Kind>) return squares < kInf ? 1.0f : __builtin_nanf("");
  if (squares > 1e-30f && squares < 1e30f) return 1.0f / __builtin_sqrtf(squares);
  const double norm = __builtin_sqrt(exact_squares(x, width));
  if (!(norm < 1e300)) return __builtin_nanf("");
  return norm < 0x1p-126 ? 0.0f : static_cast<float>(1.0 / norm);
}

// ---- rows and panels ------------------------------------------------------------------------------------------------
// From one copied row to the next: an odd number of cache lines, or rows of a power of two would share a few of them.
inline int64_t tile_stride(int64_t width) { return (width + 2 * W - 1) / (2 * W) * (2 * W) + W; }

template <class T>
void copy_row(const Points<T>& s, int64_t j, float* to) {
  const T* from = s.row(j);
  const vf scale = set(s.scale[j]);
  const int64_t whole = s.width / W * W;
  for (int64_t d = 0; d < whole; d += W) store(to + d, load(from + d) * scale);
  const int rest = static_cast<int>(s.width - whole);
  if (rest > 0) store_n(to + whole, load_n(from + whole, rest) * scale, rest);
}

// W rows, transposed to [width][kPanel].
template <class T>
void pack_lanes(const Points<T>& s, const int32_t* items, float* to) {
  vf words[W];
  for (int64_t d = 0; d < s.width; d += W) {
    const int depth = static_cast<int>(s.width - d < W ? s.width - d : W);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const T* from = s.row(items[i]) + d;
      words[i] = (depth == W ? load(from) : load_n(from, depth)) * s.scale[items[i]];
    }
    transpose(words);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i < depth) store(to + (d + i) * kPanel, words[i]);
    }
  }
}

// Some rows of a sample, packed. Lanes past the last repeat the first row.
struct PackedRows {
  int64_t count;   // how many
  int32_t* items;  // [panels * kPanel]
  float* words;    // [panels][width][kPanel]

  int64_t panels() const { return (count + kPanel - 1) / kPanel; }
  int vectors(int64_t panel) const { return count - panel * kPanel > W ? kVectors : 1; }
};

// `p.items` are given up to `p.count`.
template <class T>
void pack(const Points<T>& s, const PackedRows& p) {
  for (int64_t i = p.count; i < p.panels() * kPanel; ++i) p.items[i] = p.items[0];
  const int64_t vectors = (p.count + W - 1) / W;
  parallel_ranges(vectors, W * s.width, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      pack_lanes(s, p.items + v * W, p.words + v / kVectors * s.width * kPanel + v % kVectors * W);
    }
  });
}

// ---- tiles ----------------------------------------------------------------------------------------------------------
alignas(64) constexpr float kNoBias[kPanel] = {};

// gaps[row][kPanel]
template <class Kind, int R, int V>
void tile_gaps(const float* rows, int64_t stride, const float* panel, int64_t width, float* gaps) {
  vf sum[R][V];
  multiply_panel<Kind>(rows, stride, panel, width, kNoBias, sum);
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(gaps + i * kPanel + v * W, gap_of<Kind>(sum[i][v]));
  }
}

template <class Kind, int V, int R>
TK_INLINE void tile_gaps(int64_t count, const float* rows, int64_t stride, const float* panel, int64_t width,
                         float* gaps) {
  if (count == R) return tile_gaps<Kind, R, V>(rows, stride, panel, width, gaps);
  if constexpr (R > 1) tile_gaps<Kind, V, R - 1>(count, rows, stride, panel, width, gaps);
}

// Where the gaps of a tile belong.
struct Tile {
  int64_t chunk;         // which task found them
  int64_t first, count;  // in the list of rows
  int64_t panel;
  int vectors;
  const float* gaps;  // [count][kPanel]
};

inline int64_t rows_of_chunk(int64_t lanes, int64_t width) {
  const int64_t rows = kChunkProducts / ((lanes + 1) * (width + 1));
  return rows < kRows ? kRows : rows / kRows * kRows;
}

// Calls use(tile) for every tile of `rows` and every panel; tasks are cut by shape.
template <class Kind, class T, class Use>
void meet(const Points<T>& s, const int32_t* rows, int64_t count, const PackedRows& p, const Use& use) {
  const int64_t a_chunk = rows_of_chunk(p.count, s.width);
  const int64_t stride = tile_stride(s.width);
  parallel_for((count + a_chunk - 1) / a_chunk, [&](int64_t chunk) {
    const int64_t begin = chunk * a_chunk;
    const int64_t size = begin + a_chunk < count ? a_chunk : count - begin;
    const int64_t tiles = (size + kRows - 1) / kRows;
    const Scratch<float> copies(kRows * stride);
    alignas(64) float gaps[kRows * kPanel];
    for (int64_t t = 0; t < tiles; ++t) {  // tiles of equal height, so that none is a thin rest
      const int64_t first = begin + size * t / tiles;
      const int64_t height = begin + size * (t + 1) / tiles - first;
      for (int64_t i = 0; i < height; ++i) copy_row(s, rows[first + i], copies.data() + i * stride);
      for (int64_t g = 0; g < p.panels(); ++g) {
        const float* panel = p.words + g * s.width * kPanel;
        const int vectors = p.vectors(g);
        if (vectors == 1) {
          tile_gaps<Kind, 1, kRows>(height, copies.data(), stride, panel, s.width, gaps);
        } else {
          tile_gaps<Kind, kVectors, kRows>(height, copies.data(), stride, panel, s.width, gaps);
        }
        use(Tile{chunk, first, height, g, vectors, gaps});
      }
    }
  });
}

inline int64_t chunks_of(int64_t count, int64_t lanes, int64_t width) {
  const int64_t a_chunk = rows_of_chunk(lanes, width);
  return (count + a_chunk - 1) / a_chunk;
}

// ---- the best of many ---------------------------------------------------------------------------------------------
// Scores are not negative, so a larger key is a larger score, or the lower index of equals. 0 is none.
TK_INLINE uint64_t key_of(float score, int64_t j) {
  return uint64_t{detail::bit_cast<uint32_t>(score)} << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(j));
}
TK_INLINE int32_t item_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

TK_INLINE float score_of(uint64_t key) { return detail::bit_cast<float>(static_cast<uint32_t>(key >> 32)); }
TK_INLINE float larger(float x, float y) { return x > y ? x : y; }

// The largest keys offered, up to `room`: a heap with the least of them on top.
struct BestKeys {
  uint64_t* keys;
  int64_t room;
  int64_t count = 0;

  bool wants(uint64_t key) const { return count < room || key > keys[0]; }
  void offer(uint64_t key) {
    if (!wants(key)) return;
    int64_t at = count < room ? count++ : 0;
    if (at == 0) return sink(key);
    for (; at > 0 && keys[(at - 1) / 2] > key; at = (at - 1) / 2) keys[at] = keys[(at - 1) / 2];
    keys[at] = key;
  }

 private:
  void sink(uint64_t key) {
    int64_t at = 0;
    for (int64_t child = 1; child < count; child = 2 * at + 1) {
      if (child + 1 < count && keys[child + 1] < keys[child]) ++child;
      if (keys[child] >= key) break;
      keys[at] = keys[child];
      at = child;
    }
    keys[at] = key;
  }
};

}  // namespace
}  // namespace tk::selection
