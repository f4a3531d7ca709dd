// SPDX-License-Identifier: Apache-2.0
// attention: o[b,h,i] = sum_j p_ij v[b,g,j] over the keys that the policy lets query i see,
//   s_ij = scale * <q[b,h,i], k[b,g,j]> + key_bias[b,h,j],  p_ij = exp(s_ij) / (extra + sum_j' exp(s_ij')),
//   lse[b,h,i] = log(extra + sum_j exp(s_ij)),  g = h / (H / G).
//
//   q         (B, H, Nq, D)  float32, float16 or bfloat16 (float64 on backend ref); rows contiguous, any outer strides
//   k, v      (B, G, Nk, D)  dtype of q; H is a multiple of G
//   key_bias  (B, H, Nk)     float32, or null; strides of 0 share it. -inf hides a key
//   out       (B, H, Nq, D)  dtype of q, contiguous
//   lse       (B, H, Nq)     float32 (float64 for float64), contiguous, or null
//
// Sums are kept in float32 or better, and the running maximum keeps logits of any finite size safe. A query without
// keys, or whose scores are all -inf, gives zeros and lse = log(extra), -inf for extra = 0. A NaN in a query, or in a
// key that a query sees, makes that query's answer NaN; a hidden key is never read into an answer.
// Half precision: scores in float32; the weights of the second product may be rounded to the dtype.
#pragma once
#include "attention/policy.h"
#include "core/head_row.h"
#include "core/op.h"

namespace tk::attention {

struct KeyBias {
  const float* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0;
};

struct Shape {
  int64_t batch, heads, groups;  // B, H, G
  Extents extents;               // Nq, Nk
  int64_t width;                 // D
};

struct AttentionArgs {
  HeadRows q, k, v;
  KeyBias key_bias;
  void* out;
  void* lse;
  Policy policy;
  Shape shape;
  DType dtype;
  double scale, extra;
};

TK_DECLARE_OP(attention, AttentionArgs)

}  // namespace tk::attention
