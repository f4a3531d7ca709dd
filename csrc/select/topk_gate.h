// SPDX-License-Identifier: Apache-2.0
// topk_gate: the k experts of every token, and how much each of them counts.
//   p = softmax(logits[b, t, :]) in float32
//   index[b, t, :]  the best k in the order of score_rows.h: largest logit first, of equals the lowest index, NaN last
//   weight[b, t, i] = p[index[b, t, i]], divided by their sum over i where `normalize`
//   counts[b, e]    how often e occurs in index[b]
//
//   logits  (B, T, E)  float32, float16 or bfloat16; rows contiguous, any outer strides; E <= kMostExperts
//   index   (B, T, k)  int64, contiguous; 0 <= k <= E
//   weight  (B, T, k)  float32, contiguous
//   counts  (B, E)     int64, contiguous
//
// A row whose softmax is none (a NaN or +inf in it, or nothing but -inf) has NaN weights; it is chosen from and counted
// as any other.
#pragma once
#include "select/score_rows.h"

namespace tk::selection {

constexpr int64_t kMostExperts = 8192;

struct TopkGateArgs {
  ScoreRows logits;       // no mask; rows B * T
  int64_t batch, tokens;  // B, T
  int64_t* index;
  float* weight;
  int64_t* counts;
  int64_t k;
  bool normalize;
};

// The score that a key stands for; +0 for either zero.
TK_INLINE float key_score(uint32_t key) {
  const uint32_t bits = key >= 0x80000000u ? key - 0x80000000u : (0x80000000u - key) | 0x80000000u;
  return detail::bit_cast<float>(bits);
}

TK_DECLARE_OP(topk_gate, TopkGateArgs)

}  // namespace tk::selection
