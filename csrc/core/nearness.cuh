// SPDX-License-Identifier: Apache-2.0
// How near a column is to a row, from their product and a value of either that is known beforehand. The row's value
// does not change the order of the columns, so it comes last.
#pragma once
#include "core/gpu.cuh"
#include "core/metric.h"

namespace tk {

constexpr int kNormThreads = 256;

TK_INLINE float not_a_number() { return detail::bit_cast<float>(uint32_t{0x7fc00000u}); }

// |x|^2, on every lane of a warp.
template <class T>
__device__ __forceinline__ float warp_squares(const T* x, int64_t width, int lane) {
  float squares = 0;
  for (int64_t d = lane; d < width; d += 32) squares = fmaf(to_float(x[d]), to_float(x[d]), squares);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(kAllLanes, squares, step);
  return squares;
}

// 1 / |x|: 0 for a zero vector, NaN for one that is not finite.
TK_INLINE float inverse_root(float squares) {
  if (squares == 0) return 0;
  return squares < kInfinity ? 1.0f / sqrtf(squares) : not_a_number();
}

TK_INLINE float finite_or_nan(float x) { return fabsf(x) < kInfinity ? x : not_a_number(); }

// l2 |x|^2, cosine 1 / |x|, dot 0; NaN where the row is not finite.
TK_INLINE float row_value(Metric metric, float squares) {
  if (metric == Metric::cosine) return inverse_root(squares);
  return metric == Metric::l2 ? finite_or_nan(squares) : finite_or_nan(squares) * 0.0f;
}

// l2 -|c|^2 / 2, cosine 1 / |c|, dot 0; NaN where the column is not finite.
TK_INLINE float column_value(Metric metric, float squares) {
  if (metric == Metric::cosine) return inverse_root(squares);
  return finite_or_nan(squares) * (metric == Metric::l2 ? -0.5f : 0.0f);
}

// The larger, the nearer; NaN where the column may not be chosen.
TK_INLINE float nearness(Metric metric, float product, float column) {
  return metric == Metric::cosine ? product * column : product + column;
}

// What an op says of a pair: squared distance, cosine or product; NaN where the row is not finite.
TK_INLINE float reported(Metric metric, float score, float row) {
  if (metric == Metric::cosine) return score * row;
  if (!(row == row)) return row;
  return metric == Metric::l2 ? fmaxf(row - 2.0f * score, 0.0f) : score;
}

}  // namespace tk
