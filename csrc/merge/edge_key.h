// SPDX-License-Identifier: Apache-2.0
// The order of select_edges as one unsigned key: ascending keys are descending scores.
#pragma once
#include "merge/select_edges.h"

namespace tk::merge {

constexpr uint32_t kClassKey = 0xfffffffeu;    // after every score
constexpr uint32_t kPaddingKey = 0xffffffffu;  // in no list

// NaN becomes -inf, -0 becomes +0; -inf maps to 0xff800000, so that the class token and padding stay behind.
TK_INLINE uint32_t score_key(float score) {
  const float canonical = score == score ? score + 0.0f : -__builtin_inff();
  const uint32_t bits = detail::bit_cast<uint32_t>(canonical);
  return bits >> 31 ? bits : ~bits ^ 0x80000000u;
}

TK_INLINE uint32_t edge_key(const SelectEdgesArgs& a, int64_t b, int64_t row) {
  if (a.valid && !a.valid[b * a.tokens + row_token(a, b, row)]) return kPaddingKey;
  if (a.class_token && row == 0) return kClassKey;
  return a.score ? score_key(a.score[b * a.rows + row]) : 0u;
}

TK_INLINE bool column_counts(const SelectEdgesArgs& a, int64_t b, int64_t column) {
  return !a.valid || a.valid[b * a.tokens + column_token(a, b, column)];
}

}  // namespace tk::merge
