// SPDX-License-Identifier: Apache-2.0
// power_iterate: `iters` steps s_j <- sum_i map[b, h, i, j] * s_i of every head, from `start`; s is float32.
//
//   map    (B, H, N, N)  float32, float16 or bfloat16; rows contiguous, any other strides
//   start  (B, H, N)     float32, contiguous; or null: 1 / N everywhere
//   out    (B, H, N)     float32, contiguous
//
// With eps >= 0 a head stops by itself after the step in which no s_j moved by more than eps; a NaN never stops.
// No step returns the start, bit for bit. NaN and infinities of the map or the start propagate as in a sum of products.
#pragma once
#include "core/op.h"

namespace tk::selection {

constexpr int64_t kMostPowerTokens = 1 << 14;

struct PowerIterateArgs {
  const void* map;
  const float* start;
  float* out;
  DType dtype;
  int64_t batch, heads, tokens;                   // B, H, N
  int64_t batch_stride, head_stride, row_stride;  // of map, in elements
  int64_t iters;
  float eps;  // negative: never stops
};

template <class T>
TK_INLINE const T* map_of_head(const PowerIterateArgs& a, int64_t head) {
  return static_cast<const T*>(a.map) + head / a.heads * a.batch_stride + head % a.heads * a.head_stride;
}

TK_DECLARE_OP(power_iterate, PowerIterateArgs)

}  // namespace tk::selection
