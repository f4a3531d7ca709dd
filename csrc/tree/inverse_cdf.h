// SPDX-License-Identifier: Apache-2.0
// How probabilities are added up and how an item is drawn, the same bit for bit in every backend.
//
// Mass is counted in whole units of 2^-42, every item rounded to the nearest: a sum of integers has no order. Items are
// multiplied in double: a product of two floats is exact there, so that it makes no difference where a compiler
// contracts it with a sum.
#pragma once
#include "core/dtype.h"

namespace tk::tree {

constexpr double kMassUnit = 0x1p42;                    // units of a mass of 1
constexpr int64_t kMostItems = int64_t{1} << 20;        // of a row: their units cannot overflow
constexpr float kMostItemMass = 1.5f;                   // no item of a distribution is larger, however it was rounded
constexpr double kUnitBase = 1536.0;                    // its last bit is a unit, also after a sum with less than 512
constexpr uint64_t kUnitBaseBits = 0x4098000000000000;  // of kUnitBase

// The bits of kUnitBase plus the units of x: the addition rounds to nearest, ties to even.
TK_INLINE uint64_t based_units(double x) { return detail::bit_cast<uint64_t>(x + kUnitBase); }
TK_INLINE int64_t mass_units(double x) { return static_cast<int64_t>(based_units(x) - kUnitBaseBits); }

// What makes a row of that mass sum to 1; mass above 0.
TK_INLINE float scale_of(int64_t mass) { return static_cast<float>(kMassUnit / static_cast<double>(mass)); }
TK_INLINE double scaled(float item, float scale) { return static_cast<double>(item) * static_cast<double>(scale); }

// An item of max(p - q, 0), both scaled. Kept as a float, so that its units are those of what is read again.
TK_INLINE float residual_item(float p, float p_scale, float q, float q_scale) {
  const double left = scaled(p, p_scale) - scaled(q, q_scale);
  return left > 0.0 ? static_cast<float>(left) : 0.0f;
}

// The item drawn by u in [0, 1) from a row of that mass: the first whose running mass is above this. It is below mass,
// so that there is one, and it has a mass of its own.
TK_INLINE int64_t drawn_mass(float u, int64_t mass) {
  return static_cast<int64_t>(static_cast<double>(u) * static_cast<double>(mass));
}

// Neither NaN nor negative nor larger than an item can be.
TK_INLINE bool is_probability(float x) { return x >= 0.0f && x <= kMostItemMass; }

// How far the mass of a row may be from 1: 1e-3, and what rounding every item to the dtype can add, once up and once
// down: 2^-8 of the mass for bfloat16, 2^-10 of it for float16, and there 2^-24 for every item that is subnormal.
TK_INLINE double mass_tolerance(DType dtype, int64_t width) {
  if (dtype == DType::bf16) return 1e-3 + 0x1p-8;
  if (dtype == DType::f16) return 1e-3 + 0x1p-10 + 0x1p-24 * static_cast<double>(width);
  return 1e-3;
}
TK_INLINE int64_t mass_slack(DType dtype, int64_t width) {
  return static_cast<int64_t>(kMassUnit * mass_tolerance(dtype, width));
}
TK_INLINE bool is_whole(int64_t mass, int64_t slack) {
  const int64_t off = mass - static_cast<int64_t>(kMassUnit);
  return off <= slack && -off <= slack;
}

}  // namespace tk::tree
