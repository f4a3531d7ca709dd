// SPDX-License-Identifier: Apache-2.0
// gumbel_argmax: one draw from the softmax of every row of logits, as the argmax of noisy scores:
//   index_n = argmax_v logits_nv / T - ln(-ln u_nv)            T = 0: argmax_v logits_nv
//
//   logits  (N, V)  float32, float16 or bfloat16; rows contiguous, any stride between them; V at least 1
//   u       (N, V)  float32, likewise; of (0, 1); not read where T = 0
//   index   (N)     int64, contiguous
//
// Ties go to the lowest index, NaN (of logit or u) comes after every number. u below 2^-126 counts as 2^-126, and from
// 1 on as 1 - 2^-24, so that noise is finite and a logit of -inf is drawn only where no other number is. Scores are
// float32 with the same bits on every backend; logits / T is logits times 1 / T.
#pragma once
#include "core/log.h"
#include "core/op.h"
#include "tree/two_best.h"

namespace tk::tree {

constexpr float kLeastNoise = 1.17549435e-38f;  // 2^-126
constexpr float kMostNoise = 0.999999940395f;   // 1 - 2^-24

struct GumbelArgmaxArgs {
  const void* logits;
  const float* u;
  int64_t* index;
  DType dtype;
  int64_t rows, width;              // N, V
  int64_t logits_stride, u_stride;  // between rows, in elements
  float scale;                      // 1 / T, or 0: no noise
};

template <class T>
TK_INLINE const T* logits_row(const GumbelArgmaxArgs& a, int64_t row) {
  return static_cast<const T*>(a.logits) + row * a.logits_stride;
}

// NaN stays NaN. F is float or a vector of it.
template <class F>
TK_INLINE F bound_noise(F u) {
  const F raised = u < kLeastNoise - F{} ? kLeastNoise - F{} : u;
  return raised > kMostNoise - F{} ? kMostNoise - F{} : raised;
}

// `x` is the logit over T, `u` of bound_noise. F and I as for natural_log.
template <class I, class F>
TK_INLINE F noisy_score(F x, F u) {
  const F score = x - natural_log<I>(-natural_log<I>(u));
  return u == u ? score : u;
}

TK_DECLARE_OP(gumbel_argmax, GumbelArgmaxArgs)

}  // namespace tk::tree
