// SPDX-License-Identifier: Apache-2.0
// sample_without_replacement: k draws from every row of q, each from what the draws before it left over. They are the
// first k of an exponential race (race.h): by ascending -ln(u_v) / q_v, the lowest index among equals.
//   prob_i = q[y_i] / (mass of the items not drawn at all + sum_{j >= i} q[y_j])
// which is q[y_i] / (1 - sum_{j < i} q[y_j]) where a row sums to 1, and does not cancel.
//
//   q      (N, V)  float32, float16 or bfloat16; rows contiguous, any stride between them; need not sum to 1
//   u      (N, V)  float32, likewise; of [0, 1]
//   index  (N, k)  int64, contiguous
//   prob   (N, k)  float32, contiguous; of (0, 1]
//
// 0 <= k <= V < 2^31. An item whose q is 0, negative, NaN or infinite has no mass and is never drawn: once no mass is
// left, index is -1 and prob 0. The draw that takes the last mass has prob 1. u = 0 is the least uniform, not no draw.
#pragma once
#include "core/op.h"
#include "tree/race.h"

namespace tk::tree {

struct SampleWithoutReplacementArgs {
  const void* q;
  const float* u;
  int64_t* index;
  float* prob;
  DType dtype;
  int64_t rows, width, k;      // N, V, k
  int64_t q_stride, u_stride;  // between rows, in elements
};

template <class T>
TK_INLINE const T* mass_row(const SampleWithoutReplacementArgs& a, int64_t row) {
  return static_cast<const T*>(a.q) + row * a.q_stride;
}

TK_DECLARE_OP(sample_without_replacement, SampleWithoutReplacementArgs)

}  // namespace tk::tree
