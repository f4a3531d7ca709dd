// SPDX-License-Identifier: Apache-2.0
// The matrix product under attention_backward, included by per-ISA files only:
//
//   sum[r][c] (+)= sum over k < depth of a[r * a_row + k * a_step] * b[k * b_stride + c],  k in words of a Kind
//
// a is read one word at a time, from either side of a matrix; b and sum in whole vectors.
#pragma once
#include "core/bf16_dot.h"

namespace tk::attention {
namespace {

constexpr int kProductRows = 6;                   // of one register block
constexpr int kProductVectors = W == 16 ? 4 : 2;  // and vectors of each of its rows: 24 or 12 accumulators

struct Product {
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_stride;
  int64_t depth;
  float* sum;
  int64_t sum_stride;
  bool add;  // to what is in sum
};

template <class Kind, int R, int V>
void product_block(const Product& p, int64_t r0, int64_t c0) {
  const float* a = p.a + r0 * p.a_row;
  const float* b = p.b + c0;
  float* sum = p.sum + r0 * p.sum_stride + c0;
  vf block[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) block[r][v] = p.add ? load(sum + r * p.sum_stride + v * W) : zero();
  }
  for (int64_t k = 0; k < p.depth; ++k) {
    vf value[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) value[v] = load(b + k * p.b_stride + v * W);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const vf factor = set(a[r * p.a_row + k * p.a_step]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) block[r][v] = Kind::dot(factor, value[v], block[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sum + r * p.sum_stride + v * W, block[r][v]);
  }
}

// The first `rows` <= R rows: every count of rows has a block of its own, which keeps all its sums in registers.
template <class Kind, int V, int R = kProductRows>
void product_rows(const Product& p, int64_t rows, int64_t r0, int64_t c0) {
  if constexpr (R > 1) {
    if (rows < R) return product_rows<Kind, V, R - 1>(p, rows, r0, c0);
  }
  product_block<Kind, R, V>(p, r0, c0);
}

template <class Kind, int V>
void product_panel(const Product& p, int64_t rows, int64_t c0) {
  for (int64_t r = 0; r < rows; r += kProductRows) product_rows<Kind, V>(p, rows - r, r, c0);
}

// `lanes`, the extent of c, is a multiple of W.
template <class Kind>
void product(const Product& p, int64_t rows, int64_t lanes) {
  int64_t c = 0;
  for (; c + kProductVectors * W <= lanes; c += kProductVectors * W) product_panel<Kind, kProductVectors>(p, rows, c);
  const int64_t rest = (lanes - c) / W;
  if (rest == 1) product_panel<Kind, 1>(p, rows, c);
  if constexpr (kProductVectors == 4) {
    if (rest == 2) product_panel<Kind, 2>(p, rows, c);
    if (rest == 3) product_panel<Kind, 3>(p, rows, c);
  }
}

}  // namespace
}  // namespace tk::attention
