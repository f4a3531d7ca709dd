// SPDX-License-Identifier: Apache-2.0
// Scores of rows against codes for soft assignments, a block of rows against slices of codes. Included by per-ISA files
// only.
//
// A block's scores lie in panels of kLanes codes, [panel][row][kLanes]: what becomes of them (powers, gradients) takes
// their place and is then multiplied from there. Scores leave out what is the same for all codes of a row, `bias` of
// the row, and the temperature.
#pragma once
#include "attention/pack.h"
#include "core/exp2.h"
#include "core/metric.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace tk::quantize {
namespace {

using attention::kLanes;
using attention::round_up;
using attention::smaller;

constexpr float kSoftLog2E = 1.44269504088896341f;
constexpr float kSoftLn2 = 0.693147180559945309f;
constexpr int64_t kBlockFloats = int64_t{2} << 20;  // scores of a block that stay in the last cache
constexpr int64_t kMostBlockRows = 192;
constexpr int64_t kLeastBlockRows = 24;
constexpr int64_t kSliceCodes = 256;  // at least, of a slice
constexpr int64_t kMostSlices = 64;
constexpr int64_t kManySlices = 8;                  // enough to share a block among threads
constexpr int64_t kMostGroups = 64;                 // of row blocks, where slices are few
constexpr int64_t kGroupFloats = int64_t{4} << 20;  // that groups may keep for themselves

// One book, and how it is cut: by shape alone.
struct SoftBook {
  const void* x;
  const void* codes;
  int64_t x_stride, c_stride;  // of rows, in elements
  Metric metric;
  int64_t rows, count, width;
  int64_t block, panels, slice, slices, blocks, groups;  // rows of a block, panels, panels of a slice, ...
};

// `kept`: floats that a group of row blocks keeps for itself.
template <class Args>
SoftBook soft_book(const Args& a, int64_t q, int64_t kept) {
  const auto item = static_cast<int64_t>(item_size(a.dtype));
  SoftBook b{};
  b.x = static_cast<const char*>(a.x) + q * a.x_book_stride * item;
  b.codes = static_cast<const char*>(a.codes) + q * a.c_book_stride * item;
  b.x_stride = a.x_row_stride;
  b.c_stride = a.c_row_stride;
  b.metric = a.metric;
  b.rows = a.rows;
  b.count = a.codes_count;
  b.width = a.width;
  b.panels = (b.count + kLanes - 1) / kLanes;
  const int64_t least = kSliceCodes / kLanes;
  const int64_t share = (b.panels + kMostSlices - 1) / kMostSlices;
  b.slice = share > least ? share : least;
  b.slices = (b.panels + b.slice - 1) / b.slice;
  const int64_t fits = kBlockFloats / (b.panels * kLanes) / attention::kGroup * attention::kGroup;
  const int64_t most = b.slices < kManySlices ? kMostBlockRows / 2 : kMostBlockRows;
  b.block = fits < kLeastBlockRows ? kLeastBlockRows : fits > most ? most : fits;
  if (b.block > b.rows) b.block = b.rows > 0 ? b.rows : 1;
  b.blocks = (b.rows + b.block - 1) / b.block;
  int64_t groups = kGroupFloats / (kept + 1);
  groups = groups > kMostGroups ? kMostGroups : groups;
  groups = groups > b.blocks ? b.blocks : groups;
  b.groups = b.slices >= kManySlices || groups < 1 ? 1 : groups;  // without rows: one, of no blocks
  return b;
}

TK_INLINE int64_t block_rows(const SoftBook& b, int64_t block) { return smaller(b.rows - block * b.block, b.block); }

// Codes of a panel, and lanes that are computed for them.
TK_INLINE int64_t panel_codes(const SoftBook& b, int64_t panel) { return smaller(b.count - panel * kLanes, kLanes); }
TK_INLINE int64_t panel_lanes(const SoftBook& b, int64_t panel) { return round_up(panel_codes(b, panel), W); }

// The lanes of codes that exist.
TK_INLINE vf keep_lanes(vf x, int64_t left) {
  return left >= W ? x : select(iota(0) < static_cast<int32_t>(left), x, zero());
}

TK_INLINE vf inverse_root(vf squares) {
  vf inverse;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) inverse[i] = 1.0f / __builtin_sqrtf(squares[i]);
  return select(squares == zero(), zero(), inverse);
}

TK_INLINE float row_squares(const float* row, int64_t width) {
  vf sum = zero();
  int64_t d = 0;
  for (; d + W <= width; d += W) sum = fma(load(row + d), load(row + d), sum);
  const vf rest = load_n(row + d, static_cast<int>(width - d));
  return reduce_add(fma(rest, rest, sum));
}

// Rows of a block as floats, [row][width]: unit vectors for cosine. `bias`: what l2 subtracts from all scores of a row;
// `inverse`: 1 / |row|.
struct SoftRows {
  float* data;
  float* bias;
  float* inverse;
};

template <class T>
void load_soft_rows(const SoftBook& b, int64_t block, const SoftRows& to) {
  const int64_t rows = block_rows(b, block);
  const T* from = static_cast<const T*>(b.x) + block * b.block * b.x_stride;
  attention::copy_rows<Floats, T>({from, b.x_stride, nullptr}, rows, b.width, to.data);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = to.data + r * b.width;
    const float squares = b.metric == Metric::dot ? 0.0f : row_squares(row, b.width);
    to.bias[r] = b.metric == Metric::l2 ? -squares : 0.0f;
    to.inverse[r] = squares == 0.0f ? 0.0f : 1.0f / __builtin_sqrtf(squares);
    for (int64_t d = 0; b.metric == Metric::cosine && d < b.width; ++d) row[d] *= to.inverse[r];
  }
}

// score = sum * scale + bias
struct StoreScores {
  const float* scale;
  const float* bias;
  TK_MEMBER void operator()(float* to, int64_t lane, vf sum) const {
    store(to, fma(sum, load(scale + lane), load(bias + lane)));
  }
};

// What the scores of a panel are made of.
struct PanelScale {
  float scale[kLanes];  // cosine: 1 / |code|
  float bias[kLanes];   // NaN for a code that is not finite, -inf where there is none
};

template <class T>
void pack_codes(const SoftBook& b, int64_t panel, float* packed, PanelScale* s) {
  const int64_t codes = panel_codes(b, panel);
  const T* from = static_cast<const T*>(b.codes) + panel * kLanes * b.c_stride;
  attention::pack_transposed<Floats, T>({from, b.c_stride, nullptr}, codes, b.width, packed);
  for (int64_t lane = 0; lane < panel_lanes(b, panel); lane += W) {
    vf squares = zero();
    vf check = zero();
    for (int64_t w = 0; w < b.width; ++w) {
      const vf c = load(packed + w * kLanes + lane);
      squares = fma(c, c, squares);
      check = fma(c, zero(), check);
    }
    vf bias = b.metric == Metric::l2 ? check - squares : check;
    if (codes - lane < W) bias = select(iota(0) < static_cast<int32_t>(codes - lane), bias, set(-__builtin_inff()));
    store(s->bias + lane, bias);
    store(s->scale + lane,
          b.metric == Metric::cosine ? inverse_root(squares) : set(b.metric == Metric::l2 ? 2.0f : 1.0f));
  }
}

// to[row][kLanes], scores of a panel; `packed` has room for kLanes * width floats.
template <class T>
void score_panel(const SoftBook& b, int64_t panel, int64_t rows, const float* data, float* packed, float* to) {
  PanelScale s;
  pack_codes<T>(b, panel, packed, &s);
  attention::multiply<Floats>(rows, panel_lanes(b, panel), b.width, attention::RowMajor{data, b.width},
                              attention::Panels{packed, b.width}, StoreScores{s.scale, s.bias}, to, kLanes);
}

// share[n]: of row n in the mean over rows.
template <class Args>
void row_shares(const Args& a, int64_t q, float* share) {
  if (!a.weight) {
    for (int64_t n = 0; n < a.rows; ++n) share[n] = static_cast<float>(1.0 / static_cast<double>(a.rows));
    return;
  }
  const float* weight = a.weight + q * a.weight_book_stride;
  double total = 0;
  for (int64_t n = 0; n < a.rows; ++n) total += static_cast<double>(weight[n]);
  for (int64_t n = 0; n < a.rows; ++n) {
    share[n] = weight[n] == 0.0f || total == 0 ? 0.0f : static_cast<float>(static_cast<double>(weight[n]) / total);
  }
}

// Groups of row blocks side by side, or, where there is but one, blocks one after the other, whose slices are shared
// among threads: body(group, first block, end).
template <class Body>
void for_groups(const SoftBook& b, Body&& body) {
  if (b.groups == 1) return body(int64_t{0}, int64_t{0}, b.blocks);
  parallel_for(b.groups, [&](int64_t g) { body(g, b.blocks * g / b.groups, b.blocks * (g + 1) / b.groups); });
}

}  // namespace
}  // namespace tk::quantize
