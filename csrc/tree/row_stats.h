// SPDX-License-Identifier: Apache-2.0
// row_stats: what the softmax of every row of logits says, in one pass over the row. With z = logits / temperature:
//   lse_n = log sum_j exp z_nj        p_nj = exp(z_nj - lse_n)        entropy_n = -sum_j p_nj log p_nj
//   best_n = the largest logit of the row and the next largest, as indices and as p
//   p_ids_nk = p_n,ids_nk
//
//   logits  (B, N, V)  float32, float16 or bfloat16; rows contiguous, any outer strides; V at least 1
//   ids     (B, N, K)  int64, contiguous, or null
//   best    (B, N, 2)  int64;  p_best (B, N, 2), lse, entropy (B, N), p_ids (B, N, K)  float32; all contiguous
//
// Ties go to the lowest index; NaN comes after every number. A NaN or +inf makes lse, entropy and p of its row NaN, and
// so does a row of nothing but -inf, whose lse is -inf. With V = 1 the next largest is index -1, p 0.
#pragma once
#include "core/op.h"

namespace tk::tree {

struct RowStatsArgs {
  const void* logits;
  const int64_t* ids;
  int64_t* best;
  float *p_best, *lse, *entropy, *p_ids;
  DType dtype;
  int64_t batch, rows, width, named;  // B, N, V, K
  int64_t batch_stride, row_stride;   // of logits, in elements
  float scale;                        // log2(e) / temperature
};

template <class T>
TK_INLINE const T* logits_row(const RowStatsArgs& a, int64_t row) {
  return static_cast<const T*>(a.logits) + row / a.rows * a.batch_stride + row % a.rows * a.row_stride;
}

TK_DECLARE_OP(row_stats, RowStatsArgs)

}  // namespace tk::tree
