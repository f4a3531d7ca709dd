// SPDX-License-Identifier: Apache-2.0
// topp_mask: out[..., n] = 1 for the fewest items of a row whose mass reaches p, and for at least `forced` of them.
//   m_n = prob_n, or prob_n * weight_n in float32, cut to [0, 1]
// In descending m (ties: ascending n) an item is kept while the mass of those before it is below p.
//
//   prob    (..., N)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   weight  (..., N)  float32, contiguous, or null
//   out     (..., N)  uint8, contiguous
//
// Mass is counted in units of 2^-43, rounded down: a sum of integers has no order, so out is the same in every backend,
// and 2^20 items, the most a row may have, cannot overflow. A row with a NaN keeps every item.
#pragma once
#include "core/mass_cut.h"
#include "select/score_rows.h"

namespace tk::selection {

constexpr double kMassUnits = 0x1p43;
constexpr int64_t kNoLimit = INT64_MAX;
constexpr int64_t kMostMassItems = int64_t{1} << 20;

struct ToppMaskArgs {
  ScoreRows from;
  const float* weight;
  uint8_t* out;
  int64_t limit;   // an item is kept while those before it have at most this mass; kNoLimit keeps everything
  int64_t forced;  // in [0, N]
};

TK_INLINE int64_t mass_units(float share) { return static_cast<int64_t>(share * static_cast<float>(kMassUnits)); }
TK_INLINE float cut_share(float mass) { return mass > 0.0f ? (mass < 1.0f ? mass : 1.0f) : 0.0f; }
TK_INLINE const float* weight_row(const ToppMaskArgs& a, int64_t row) {
  return a.weight ? a.weight + row * a.from.width : nullptr;
}

TK_DECLARE_OP(topp_mask, ToppMaskArgs)

}  // namespace tk::selection
