// SPDX-License-Identifier: Apache-2.0
// Values of a block of keys, weighed for a few rows at once. Included by per-ISA files only.
#pragma once
#include "core/simd.h"

namespace tk::selection {
namespace {

// Values of one head.
template <class V>
struct ValueRows {
  const V* data;
  int64_t stride, width;
};

// Keys [begin, end) with valid[j] != 0 (all of them where it is null).
struct KeyRange {
  const uint8_t* valid;
  int64_t begin, end;
};

// out[r][d .. d + C * W) += sum_j weight[r][j] * v[j]; where C is 1, `lanes` of the vector count.
template <int R, int C, class V>
void add_columns(const float* const* weight, const ValueRows<V>& v, KeyRange keys, int64_t d, int lanes,
                 float* const* out) {
  vf sum[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = load(out[r] + d + c * W);
  }
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    if (keys.valid && !keys.valid[j]) continue;
    const V* value = v.data + j * v.stride + d;
    vf x[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) x[c] = C == 1 && lanes < W ? load_n(value, lanes) : load(value + c * W);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const vf w = set(weight[r][j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = fma(w, x[c], sum[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(out[r] + d + c * W, sum[r][c]);
  }
}

// All columns; rows of `out` have room for whole vectors. One element is one chain of multiply-adds over the keys,
// whatever the number of rows.
template <int R, class V>
void add_values(const float* const* weight, const ValueRows<V>& v, KeyRange keys, float* const* out) {
  constexpr int kColumns = R == 1 ? 8 : 4;
  int64_t d = 0;
  for (; d + kColumns * W <= v.width; d += kColumns * W) add_columns<R, kColumns>(weight, v, keys, d, W, out);
  for (; d < v.width; d += W) {
    add_columns<R, 1>(weight, v, keys, d, v.width - d < W ? static_cast<int>(v.width - d) : W, out);
  }
}

}  // namespace
}  // namespace tk::selection
