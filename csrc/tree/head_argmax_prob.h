// SPDX-License-Identifier: Apache-2.0
// head_argmax_prob: the end of a language model, when only its first choice is asked for; no logit is written. With
//   x = h, or its RMSNorm: u_d = round(h_d / sqrt(mean_d h_d^2 + eps)), x_d = round(u_d * norm_weight_d)
//   z_v = sum_d x_d W_vd:
//   id = the v of the largest z        prob = exp(z_id) / sum_v exp(z_v)
//
//   h            (N, D)  float32, float16 or bfloat16; W (V, D) of that dtype, V at least 1; rows contiguous, any outer
//                        stride
//   norm_weight  (D)     dtype of h, contiguous, or null for no norm
//   id           (N)     int64;  prob (N) float32
//
// The norm is computed in float32 and rounded to the dtype of h where transformers' Llama rounds it; z is float32 and
// is not rounded. Ties go to the lowest v: equal rows of W have equal z, bit for bit. As in row_stats, NaN comes after
// every number, and a NaN or +inf among the z of a row, or nothing but -inf, makes its prob NaN. Where the processor or
// device multiplies pairs of bfloat16, numbers below 2^-126 count as zeros.
#pragma once
#include "core/op.h"

namespace tk::tree {

struct HeadArgmaxProbArgs {
  const void* h;
  const void* w;
  const void* norm_weight;  // or null
  int64_t* id;
  float* prob;
  DType dtype;
  int64_t rows, vocabulary, width;     // N, V, D
  int64_t h_row_stride, w_row_stride;  // in elements
  float eps;
};

constexpr float kHeadLog2E = 1.44269504088896341f;
constexpr float kNoHeadShift = -3.402823466e38f;  // of a row without a number above -inf
constexpr float kHeadSlack = 11.0f;               // a logit may exceed the shift by so much before the shift follows

TK_DECLARE_OP(head_argmax_prob, HeadArgmaxProbArgs)

}  // namespace tk::tree
