// SPDX-License-Identifier: Apache-2.0
// merge_attention: one softmax from K softmaxes over disjoint sets of keys. For every row (b, h, n)
//   lse = log sum_k exp lses_k        w_k = exp(lses_k - lse)        out = sum_k w_k outs_k
// summed in the order of k.
//
//   outs  (K, B, H, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   lses  (K, B, H, N)     float32; innermost contiguous, any outer strides
//   out   (B, H, N, D)     dtype of outs, contiguous
//   lse   (B, H, N)        float32, contiguous
//
// A part whose lse is -inf saw no key: it weighs nothing, whatever it holds. A row without any other part, K = 0
// included, gives zeros and -inf. A row with a lse of NaN or +inf is NaN. Of one part, out and lse are copies.
#pragma once
#include "core/head_row.h"
#include "core/op.h"

namespace tk::tree {

// Rows of lses are those of (b, h).
struct PartLses {
  const float* data;
  int64_t part_stride, batch_stride, head_stride;
};

struct PartShape {
  int64_t parts, batch, heads, rows, width;  // K, B, H, N, D
};

struct MergeAttentionArgs {
  HeadRows outs;
  int64_t part_stride;  // of outs
  PartLses lses;
  void* out;
  float* lse;
  DType dtype;
  PartShape shape;
};

TK_INLINE const float* part_lse(const PartLses& x, int64_t k, int64_t b, int64_t h, int64_t n) {
  return x.data + k * x.part_stride + b * x.batch_stride + h * x.head_stride + n;
}

template <class T>
TK_INLINE const T* part_row(const HeadRows& outs, int64_t part_stride, int64_t k, int64_t b, int64_t h, int64_t n) {
  return head_row<T>(outs, b, h, n) + k * part_stride;
}

TK_DECLARE_OP(merge_attention, MergeAttentionArgs)

}  // namespace tk::tree
