// SPDX-License-Identifier: Apache-2.0
// progressive_attention: attention over keys in two bit-planes (bit_planes.h). A row of P is computed from the high
// planes; where it is flat, max_j P[i,j] < threshold, the low planes are read too and the row is computed anew.
//
//   n_i    = whole numbers of 16 bits of q[b,h,i], by the rule of bit_planes.h, with their scale s_i
//   k_j    = high_k[b,g,j] << lsb                    at first
//          = (high_k[b,g,j] << lsb) + low_k[b,g,j]   where the row is computed anew;     g = h / (H / G)
//   P[i,j] = softmax over the keys that row i sees of  scale * s_i * scale_k[b,g,j] * <n_i, k_j>
//   out    = sum_j P[i,j] * v[b,g,j]                 (v int8: times scale_v[b,g,j])
//
//   q        (B, H, Q, D)          float32, float16 or bfloat16; 1 <= D <= 256
//   high_k   (B, G, K, D)          int8;  H is a multiple of G
//   low_k    (B, G, K, (D+1) / 2)  uint8; no bytes for lsb = 0
//   scale_k  (B, G, K)             float32
//   v        (B, G, K, D)          dtype of q, or int8 with
//   scale_v  (B, G, K)             float32, or null
//   valid    (B, K)                uint8, contiguous, 0 = no row sees the key; or null
//   out      (B, H, Q, D)          dtype of q, contiguous
//   fetched  (B, H, Q)             uint8, contiguous: 1 where the row was computed anew
// Innermost extents contiguous, any outer strides.
//
// causal: row i sees keys j <= i + K - Q. Products of whole numbers are exact (32 bits hold them), the rest is float32.
// A row that sees no key gives zeros, and is not computed anew; nothing of a key that it does not see reaches it. A NaN
// (bit_planes.h makes one of a row of q or k that is not finite) makes the rows NaN that see it; they compare with
// nothing, so they are not computed anew.
#pragma once
#include "core/head_row.h"
#include "core/op.h"
#include "select/bit_planes.h"

namespace tk::selection {

constexpr float kMostQuery = 32767.0f;

struct TokenScales {
  const float* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0;
};

TK_INLINE const float* head_scales(const TokenScales& s, int64_t b, int64_t g) {
  return s.data + b * s.batch_stride + g * s.head_stride;
}

struct ProgressiveAttentionArgs {
  HeadRows q, high_k, low_k, v;
  TokenScales scale_k, scale_v;
  const uint8_t* valid;
  void* out;
  uint8_t* fetched;
  int64_t batch, heads, groups, queries, keys, width;
  int low_bits;
  bool causal;
  DType dtype, value_dtype;
  float threshold, scale;
};

// Keys before this one may be seen by query i.
TK_INLINE int64_t key_end(const ProgressiveAttentionArgs& a, int64_t i) {
  if (!a.causal) return a.keys;
  const int64_t end = i + a.keys - a.queries + 1;
  return end < 0 ? 0 : end;
}

TK_DECLARE_OP(progressive_attention, ProgressiveAttentionArgs)

}  // namespace tk::selection
