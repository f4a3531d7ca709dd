// SPDX-License-Identifier: Apache-2.0
// local_value_attention: out[b,h,i] = sum over j in S_i of prob[b,h,i,j] * v[b,g,j],  g = h / (H / G),
// where S_i holds the `keep` best keys of the row in the order of score_rows.h: the largest probabilities, among equals
// the lowest index, NaN last. What is dropped is not given to the others: there is no renormalisation.
//
//   prob  (B, H, Q, K)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   v     (B, G, K, D)  dtype of prob; rows contiguous, any outer strides; H is a multiple of G
//   out   (B, H, Q, D)  dtype of prob, contiguous; zeros where keep is 0
//
// Sums are kept in float32, in an order that the shape decides. Rows of v that are not kept are not read; a NaN or an
// infinity in a kept one spoils what it is added to.
#pragma once
#include "core/head_row.h"
#include "select/score_rows.h"

namespace tk::selection {

struct LocalValueAttentionArgs {
  HeadRows prob, v;
  void* out;
  int64_t batch, heads, groups, queries, keys, width;
  int64_t keep;  // in [0, K]
  DType dtype;
};

// The rows of probabilities, as the searches of this family take them.
TK_INLINE ScoreRows prob_rows(const LocalValueAttentionArgs& a) {
  return {a.prob.data,
          nullptr,
          a.dtype,
          a.batch * a.heads * a.queries,
          a.keys,
          {a.heads, a.queries},
          {a.prob.batch_stride, a.prob.head_stride, a.prob.row_stride}};
}

// The values that a row of probabilities weighs.
template <class T>
TK_INLINE const T* values_of(const LocalValueAttentionArgs& a, int64_t row) {
  const int64_t head = row / a.queries;
  return head_row<T>(a.v, head / a.heads, head % a.heads / (a.heads / a.groups));
}

TK_DECLARE_OP(local_value_attention, LocalValueAttentionArgs)

}  // namespace tk::selection
