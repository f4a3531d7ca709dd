// SPDX-License-Identifier: Apache-2.0
// cosine_match: for every row of a its most similar row of b; the (Na, Nb) similarity matrix is never stored.
//
//   a       (B, Na, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   b       (B, Nb, D)  dtype of a; likewise
//   mask_a  (B, Na)     1 = the row may have a partner; null = all
//   mask_b  (B, Nb)     1 = the column may be chosen; null = all
//   score   (B, Na)     float32, max over j of <a_i, b_j> / (|a_i| |b_j|)
//   index   (B, Na)     int64, the lowest j that reaches the maximum
//
// A zero vector (|v| < 2^-126) has cosine 0 with every finite vector. A vector with a NaN or an infinity has no cosine:
// it never wins and never finds a partner. A row without partner (masked, or nothing but masked and NaN columns) has
// score -inf and the lowest admissible column as index, 0 where there is none. Scores may pass 1 by a rounding error.
// Devices, and the CPU for bfloat16, may sum products of the raw vectors in float32: |v| outside [2^-60, 2^60] may
// overflow or vanish there.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct CosineMatchArgs {
  const void* a;
  const void* b;
  const uint8_t* mask_a;  // or null
  const uint8_t* mask_b;  // or null
  float* score;
  int64_t* index;
  DType dtype;
  int64_t batch, rows, columns, width;   // B, Na, Nb, D
  int64_t a_batch_stride, a_row_stride;  // in elements
  int64_t b_batch_stride, b_row_stride;
};

TK_DECLARE_OP(cosine_match, CosineMatchArgs)

}  // namespace tk::merge
