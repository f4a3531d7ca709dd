// SPDX-License-Identifier: Apache-2.0
// attention_map_ce: how far a student's attention map is from a teacher's, row by row, neither map stored:
//   loss[b,h,i] = - sum_j softmax(T)_ij log softmax(S)_ij = lse(S_i) - sum_j softmax(T)_ij S_ij
//   S_ij = scale_s <q_s[b,h,i], k_s[b,h,j]>;  T_ij = scale_t <q_t[b,h,i], k_t[b,h,j]>, or given as logits.
//
//   q_s        (B, H, N, D)   float32, float16 or bfloat16; rows contiguous, any outer strides
//   k_s        (B, H, M, D)   dtype of q_s
//   q_t, k_t   (B, H, N, E), (B, H, M, E)   dtype of q_s; or
//   logits     (B, H, N, M)   dtype of q_s, in place of q_t and k_t (rows of `teacher`, width M)
//   loss       (B, H, N)      float32, contiguous
//   lse_s, lse_t (B, H, N)    float32, contiguous, or null: what the backward pass needs
//
// Sums in float32 or better. Logits of any finite size are safe. M = 0 gives loss 0 and lse -inf. NaN propagates to its
// rows. arXiv 2505.16792, L_A.
#pragma once
#include "attention/attention.h"

namespace tk::attention {

// Scores of pairs: products of rows and columns, or the rows themselves where there are no columns.
struct MapSide {
  HeadRows rows, columns;
  int64_t width;
  float scale;
  bool is_logits() const { return columns.data == nullptr; }
};

struct AttentionMapCeArgs {
  MapSide student, teacher;
  float* loss;
  float* lse_student;
  float* lse_teacher;
  DType dtype;
  int64_t batch, heads, queries, keys;
};

TK_DECLARE_OP(attention_map_ce, AttentionMapCeArgs)

}  // namespace tk::attention
