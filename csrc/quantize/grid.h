// SPDX-License-Identifier: Apache-2.0
// The grid of finite scalar quantization: every dimension has L levels. With t = tanh(z + s), or clamp(z + s, -1, 1)
// for a hard clamp:
//   level = round(t h - o) + L // 2   h = 1.001 (L - 1) / 2; o = 1/2 for even L, else 0; halves to even
//   code  = (level - L // 2) / (L // 2)
// where s, which puts z = 0 on level L // 2, is atanh(o / h), or o / h for a hard clamp; symmetric:
//   level = floor((L - 1) t / 2 + (L - 1) / 2 + 1/2),   code = (2 level - (L - 1)) / (L - 1),   s = 0
//
// The level of a grid with at most 16 levels in every dimension is the number of its steps at or below z, where step k
// of L levels is the z at which the formula leaves level k - 1, rounded to float32. Other grids run through the formula
// in float32, no product joined with a sum; a level beyond [0, L - 1], which the factor 1.001 can make of more than
// 1000 levels, is cut to it. Either way levels and codes have the same bits on every backend. NaN has level 0 and code
// NaN.
#pragma once
#include "core/tanh.h"

namespace tk::quantize {

constexpr int kMostAxes = 62;  // of two levels at least, so that an index fits
constexpr int kMostLevels = 1 << 16;
constexpr int kSteppedLevels = 16;

TK_INLINE int first_step(int levels) { return (levels - 1) * (levels - 2) / 2; }

// One dimension of a grid. The functions below also take vectors, with an Axis of vectors: a dimension in each lane.
struct GridAxis {
  float scale, offset, shift;  // h, o, s; symmetric: (L - 1) / 2, -L / 2, 0
  float base;                  // L // 2; symmetric: 0
  float most;                  // L - 1
  float divisor;               // of a code: L // 2; symmetric: L - 1
};

struct Grid {
  int axes;
  bool symmetric, hard_clamp;
  bool stepped;              // no dimension has more than 16 levels
  float steps[15 * 16 / 2];  // of 2 to 16 levels: L - 1 of them from first_step(L) on
  int32_t levels[kMostAxes];
  float scale[kMostAxes], offset[kMostAxes], shift[kMostAxes];

  TK_HOST_DEVICE GridAxis axis(int d) const {
    const float most = static_cast<float>(levels[d] - 1);
    const float half = static_cast<float>(levels[d] / 2);
    return {scale[d], offset[d], shift[d], symmetric ? 0.0f : half, most, symmetric ? most : half};
  }
};

constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, and leaves that in the low bits

// What z is before it is rounded, in [-1, 1] but for the error of tanh.
template <bool hard_clamp, class F, class Axis>
TK_INLINE F grid_place(F z, const Axis& axis) {
  const F x = z + axis.shift;
  if constexpr (hard_clamp) {
    const F zero{};
    return cut_to(x, -1.0f - zero, 1.0f - zero);
  } else {
    return loose_tanh(x);
  }
}

// The level of a place, as a whole float; anything where the place is NaN.
template <bool symmetric, class F, class Axis>
TK_INLINE F grid_level(F place, const Axis& axis) {
  const F b = lone_product(place, axis.scale) - axis.offset;
  F n = (b + kRounder) - kRounder;
  const F zero{};
  if constexpr (symmetric) n = n > b ? n - 1.0f : n;
  return cut_to(n + axis.base, zero, axis.most);
}

// What a code is divided by axis.divisor.
template <bool symmetric, class F, class Axis>
TK_INLINE F grid_numerator(F level, const Axis& axis) {
  if constexpr (symmetric) return level + level - axis.most;
  return level - axis.base;
}

TK_INLINE float grid_code(const Grid& g, int d, float level) {
  const GridAxis axis = g.axis(d);
  return (g.symmetric ? grid_numerator<true>(level, axis) : grid_numerator<false>(level, axis)) / axis.divisor;
}

// Of a z that may be NaN.
TK_INLINE int32_t grid_level_of(const Grid& g, int d, float z) {
  if (g.stepped) {
    const float* steps = g.steps + first_step(g.levels[d]);
    int32_t level = 0;
    for (int k = 0; k + 1 < g.levels[d]; ++k) level += z >= steps[k];
    return level;
  }
  if (!(z == z)) return 0;
  const GridAxis axis = g.axis(d);
  const float place = g.hard_clamp ? grid_place<true>(z, axis) : grid_place<false>(z, axis);
  return static_cast<int32_t>(g.symmetric ? grid_level<true>(place, axis) : grid_level<false>(place, axis));
}

// d code / d place, as if nothing were rounded.
TK_INLINE float grid_slope(const Grid& g, int d) {
  return g.symmetric ? 1.0f : g.scale[d] / static_cast<float>(g.levels[d] / 2);
}

}  // namespace tk::quantize
