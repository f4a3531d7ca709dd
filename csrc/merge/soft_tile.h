// SPDX-License-Identifier: Apache-2.0
// The tile loop under soft_aggregate and its gradient, included by per-ISA files only:
//
//   sum[r, c] = sum over k of weight(r, k) * value[k, c],  weight(r, k) = exp(logit(r, k) - shift) * scale[k]
//
// Rows are targets and k tokens, or, in the gradient, the other way round: logits are read with any strides.
#pragma once
#include "core/bf16_dot.h"
#include "core/scratch.h"

namespace tk::merge {
namespace {

constexpr int kGroup = 6;                  // rows of one register block
constexpr int kVectors = W == 16 ? 4 : 2;  // and vectors of each of its rows: 24 or 12 accumulators
constexpr int kLanes = kVectors * W;       // channels of a panel
constexpr int kRowTile = 48;               // rows whose weights are computed together
constexpr int kDepth = 96;                 // weights of a row that are computed together; its panel fits L1

struct LogitRows {  // of one batch
  const void* data;
  DType dtype;
  int64_t row_stride, col_stride;
  int64_t cols;
};

struct ValueRows {  // of one batch
  const void* data;
  DType dtype;
  int64_t row_stride;
  int64_t width;
};

TK_INLINE int smaller(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }

// ---- loading --------------------------------------------------------------------------------------------------------
// m[i][j] becomes m[j][i], in log2(W) rounds that swap blocks of s x s.
template <int S>
TK_INLINE void swap_blocks(vf (&m)[W]) {
  vi low, high;
#pragma GCC unroll 16
  for (int l = 0; l < W; ++l) {
    low[l] = l & S ? W + l - S : l;
    high[l] = l & S ? W + l : l + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if (i & S) continue;
    const vf a = m[i];
    const vf b = m[i + S];
    m[i] = __builtin_shuffle(a, b, low);
    m[i + S] = __builtin_shuffle(a, b, high);
  }
  if constexpr (2 * S < W) swap_blocks<2 * S>(m);
}

template <class L>
TK_INLINE vf load_lanes(const L* p, int n) {
  return n >= W ? load(p) : load_n(p, n);
}

// Logits whose rows are contiguous.
template <class L>
void load_straight(const L* from, int64_t row_stride, int rows, int cols, float (*tile)[kDepth]) {
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < cols; k += W) store(tile[r] + k, load_lanes(from + r * row_stride + k, cols - k));
  }
}

// Logits whose columns are contiguous: W x W blocks are transposed in registers.
template <class L>
void load_transposed(const L* from, int64_t col_stride, int rows, int cols, float (*tile)[kDepth]) {
  for (int k = 0; k < cols; k += W) {
    for (int r = 0; r < rows; r += W) {
      vf block[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        block[i] = k + i < cols ? load_lanes(from + (k + i) * col_stride + r, rows - r) : zero();
      }
      swap_blocks<1>(block);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        if (r + i < rows) store(tile[r + i] + k, block[i]);
      }
    }
  }
}

// tile[r][k] for `rows` rows from r0 and `cols` <= kDepth columns from k0, padded with -inf to whole vectors.
void load_logits(const LogitRows& l, int64_t r0, int rows, int64_t k0, int cols, float (*tile)[kDepth]) {
  TK_FLOAT_SWITCH(l.dtype, L, {
    const L* from = static_cast<const L*>(l.data) + r0 * l.row_stride + k0 * l.col_stride;
    if (l.col_stride == 1) {
      load_straight(from, l.row_stride, rows, cols, tile);
    } else {
      load_transposed(from, l.col_stride, rows, cols, tile);
    }
  })
  for (int r = 0; r < rows; ++r) {
    for (int k = cols; k % W; ++k) tile[r][k] = -__builtin_inff();
  }
}

// W channels of one row, or of a row and the next; `n` of the channels and `rows` of the rows exist.
template <class Kind, class T>
TK_INLINE vf panel_words(const T* row, int64_t row_stride, int rows, int n) {
  if constexpr (Kind::kValues == 1) {
    return load_lanes(row, n);
  } else {
    return Kind::join(load_lanes(row, n), rows > 1 ? load_lanes(row + row_stride, n) : zero());
  }
}

// panel[word][0 .. lanes), lanes a multiple of W: channels from c0 of rows from k0, padded with zeros.
template <class Kind, class T>
void pack_panel(const ValueRows& v, int64_t k0, int depth, int64_t c0, int lanes, float* panel) {
  const int channels = smaller(v.width - c0, lanes);
  for (int k = 0; k < depth; k += Kind::kValues) {
    const T* row = static_cast<const T*>(v.data) + (k0 + k) * v.row_stride + c0;
    for (int c = 0; c < lanes; c += W) {
      store(panel + c, c < channels ? panel_words<Kind>(row + c, v.row_stride, depth - k, channels - c) : zero());
    }
    panel += kLanes;
  }
}

// ---- the register block ---------------------------------------------------------------------------------------------
// sum[r][0 .. V * W) += sum over k < depth of weight[r * weight_stride + k] * panel[k * panel_stride ..], k in words.
template <class Kind, int R, int V>
void multiply_block(const float* weight, int64_t weight_stride, const float* panel, int64_t panel_stride, int depth,
                    float* sum, int64_t sum_stride) {
  vf block[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) block[r][v] = load(sum + r * sum_stride + v * W);
  }
  for (int k = 0; k < depth; ++k) {
    vf value[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) value[v] = load(panel + k * panel_stride + v * W);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const vf w = set(weight[r * weight_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) block[r][v] = Kind::dot(w, value[v], block[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sum + r * sum_stride + v * W, block[r][v]);
  }
}

// The first `rows` <= R rows: every count of rows has a block of its own, which keeps all its sums in registers.
template <class Kind, int V, int R = kGroup>
void multiply_group(int rows, const float* weight, int64_t weight_stride, const float* panel, int64_t panel_stride,
                    int depth, float* sum, int64_t sum_stride) {
  if constexpr (R > 1) {
    if (rows < R) {
      return multiply_group<Kind, V, R - 1>(rows, weight, weight_stride, panel, panel_stride, depth, sum, sum_stride);
    }
  }
  multiply_block<Kind, R, V>(weight, weight_stride, panel, panel_stride, depth, sum, sum_stride);
}

// Lanes a panel of `channels` channels uses: one vector, or all of them.
TK_INLINE int lanes_for(int64_t channels) { return channels <= W ? W : kLanes; }

template <class Kind>
TK_INLINE void multiply(int rows, int lanes, const float* weight, int64_t weight_stride, const float* panel,
                        int64_t panel_stride, int depth, float* sum, int64_t sum_stride) {
  for (int r = 0; r < rows; r += kGroup) {
    const float* w = weight + r * weight_stride;
    float* s = sum + r * sum_stride;
    if (lanes == W) {
      multiply_group<Kind, 1>(rows - r, w, weight_stride, panel, panel_stride, depth, s, sum_stride);
    } else {
      multiply_group<Kind, kVectors>(rows - r, w, weight_stride, panel, panel_stride, depth, s, sum_stride);
    }
  }
}

// ---- softmax
// --------------------------------------------------------------------------------------------------------- What exp
// subtracts: the largest logit, or 0 where every logit is -inf.
TK_INLINE float finite_shift(float largest) { return largest == -__builtin_inff() ? 0.0f : largest; }

// shift[r]: the largest logit of each of `rows` rows.
void row_shifts(const LogitRows& l, int64_t r0, int rows, float* shift) {
  const Scratch<float[kDepth]> tile(kRowTile);
  for (int r = 0; r < rows; ++r) shift[r] = -__builtin_inff();
  for (int64_t k0 = 0; k0 < l.cols; k0 += kDepth) {
    const int cols = smaller(l.cols - k0, kDepth);
    load_logits(l, r0, rows, k0, cols, tile.data());
    for (int r = 0; r < rows; ++r) {
      vf largest = set(shift[r]);
      for (int k = 0; k < cols; k += W) largest = max(load(tile[r] + k), largest);
      shift[r] = reduce_max(largest);
    }
  }
  for (int r = 0; r < rows; ++r) shift[r] = finite_shift(shift[r]);
}

// What turns logits into weights. Null pointers stand for zeros (shifts) and ones (scale and probe).
struct Softmax {
  const float* row_shift;  // of the rows at hand
  const float* col_shift;
  const float* col_scale;
  const float* col_probe;
};

// One row of a tile: logits become weights; returns the vector whose lanes add up to sum of exp(...) * probe.
TK_INLINE vf weigh_row(const Softmax& s, int r, int64_t k0, int cols, float* row, vf sum) {
  const vf row_shift = set(s.row_shift ? s.row_shift[r] : 0.0f);
  for (int k = 0; k < cols; k += W) {
    const int n = cols - k;
    vf shift = row_shift;
    if (s.col_shift) shift = shift + load_lanes(s.col_shift + k0 + k, n);
    const vf e = exp(load(row + k) - shift);
    sum = s.col_probe ? fma(e, load_lanes(s.col_probe + k0 + k, n), sum) : sum + e;
    store(row + k, s.col_scale ? e * load_lanes(s.col_scale + k0 + k, n) : e);
  }
  return sum;
}

// sum[r] = 1 / normaliser of each row; row_shifts must have run.
void row_sums(const LogitRows& l, int64_t r0, int rows, const float* shift, float* sum) {
  const Scratch<float[kDepth]> tile(kRowTile);
  vf lanes[kRowTile];
  for (int r = 0; r < rows; ++r) lanes[r] = zero();
  for (int64_t k0 = 0; k0 < l.cols; k0 += kDepth) {
    const int cols = smaller(l.cols - k0, kDepth);
    load_logits(l, r0, rows, k0, cols, tile.data());
    for (int r = 0; r < rows; ++r)
      lanes[r] = weigh_row({shift, nullptr, nullptr, nullptr}, r, k0, cols, tile[r], lanes[r]);
  }
  for (int r = 0; r < rows; ++r) sum[r] = reduce_add(lanes[r]);
}

// Pairs only: the weights of a row, rounded to bfloat16 in place.
TK_INLINE void round_row(float* row, int cols) {
  for (int k = 0; k < cols; k += W) store(reinterpret_cast<bf16_t*>(row) + k, load(row + k));
}

TK_INLINE float inverse(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }

// ---- the loop
// ----------------------------------------------------------------------------------------------------------
TK_INLINE int64_t padded_width(int64_t width) { return (width + kLanes - 1) / kLanes * kLanes; }

// T are the values and Kind the words they are multiplied in: Bf16Pairs rounds the weights of the products.
// sum[r * padded_width .. ] for `rows` <= kRowTile rows from r0, and total[r] = sum over k of exp(...) * probe[k].
template <class Kind, class T>
void aggregate_rows(const LogitRows& l, const Softmax& s, const ValueRows& v, int64_t r0, int rows, float* sum,
                    float* total) {
  const Scratch<float[kDepth]> tile(kRowTile);
  const Scratch<float> packed(kDepth * kLanes);
  vf lanes[kRowTile];
  const int64_t stride = padded_width(v.width);
  for (int64_t i = 0; i < rows * stride; ++i) sum[i] = 0.0f;
  for (int r = 0; r < rows; ++r) lanes[r] = zero();
  for (int64_t k0 = 0; k0 < l.cols; k0 += kDepth) {
    const int depth = smaller(l.cols - k0, kDepth);
    load_logits(l, r0, rows, k0, depth, tile.data());
    for (int r = 0; r < rows; ++r) {
      lanes[r] = weigh_row(s, r, k0, depth, tile[r], lanes[r]);
      if constexpr (Kind::kValues == 2) round_row(tile[r], depth);
    }
    const int words = static_cast<int>(Kind::words(depth));
    for (int64_t c = 0; c < v.width; c += kLanes) {
      const int used = lanes_for(v.width - c);
      const float* panel = packed.data();
      int64_t panel_stride = kLanes;
      if (v.dtype == DType::f32 && c + used <= v.width) {
        panel = static_cast<const float*>(v.data) + k0 * v.row_stride + c;
        panel_stride = v.row_stride;
      } else {
        pack_panel<Kind, T>(v, k0, depth, c, used, packed.data());
      }
      multiply<Kind>(rows, used, tile[0], kDepth, panel, panel_stride, words, sum + c, stride);
    }
  }
  for (int r = 0; r < rows; ++r) total[r] = reduce_add(lanes[r]);
}

// to[0 .. width) = scale * from, rounded to T.
template <class From, class T>
void scale_row(const From* from, float scale, int64_t width, T* to) {
  int64_t c = 0;
  for (; c + W <= width; c += W) store(to + c, load(from + c) * set(scale));
  const int rest = static_cast<int>(width - c);
  if (rest) store_n(to + c, load_n(from + c, rest) * set(scale), rest);
}

// Rows of one parallel chunk: fewer where there would be too few chunks to share, and whole groups of rows in chunks of
// about one height, so that none is a thin rest that packs every panel for itself.
TK_INLINE int rows_per_chunk(int64_t batch, int64_t rows) {
  if (rows == 0) return kGroup;
  int64_t most = kRowTile;
  while (most > kRowTile / 4 && batch * ((rows + most - 1) / most) < 16) most /= 2;
  const int64_t chunks = (rows + most - 1) / most;
  const int64_t groups = (rows + chunks * kGroup - 1) / (chunks * kGroup);
  return static_cast<int>(groups * kGroup);
}

}  // namespace
}  // namespace tk::merge
