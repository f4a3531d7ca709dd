// SPDX-License-Identifier: Apache-2.0
// The exponential race: item v arrives at time -ln(u_v) / q_v, and the order of arrival is that of draws from q without
// replacement. Times are float32 with the same bits on every backend.
#pragma once
#include "core/log.h"

namespace tk::tree {

constexpr float kLeastUniform = 1.17549435e-38f;  // 2^-126
constexpr float kRaceUnit = 8.67361738e-19f;      // 2^-60: times of the least q stay finite, of q up to 2^40 normal

// -ln u; u below 2^-126 and NaN count as 2^-126, u above 1 as 1. F and I as for natural_log.
template <class I, class F>
TK_INLINE F exponential(F u) {
  const F least = kLeastUniform - F{};
  const F time = -natural_log<I>(u > least ? u : least);
  return time > F{} ? time : F{};
}

// Larger keys arrive earlier; 0 for an item that never does, whose q is not positive and finite.
template <class I, class U, class F>
TK_INLINE U race_key(F q, F u) {
  const U key = 0x80000000u - detail::bit_cast<U>(exponential<I>(u) * kRaceUnit / q);
  return (q > F{}) & (q < __builtin_inff() - F{}) ? key : U{};
}

TK_INLINE float race_mass(float q) { return q > 0.0f && q < __builtin_inff() ? q : 0.0f; }

// Of an item of mass q where `left` is the mass of those that have not arrived before it.
TK_INLINE float draw_share(double q, double left) { return q < left ? static_cast<float>(q / left) : 1.0f; }

}  // namespace tk::tree
