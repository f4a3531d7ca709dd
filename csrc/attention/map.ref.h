// SPDX-License-Identifier: Apache-2.0
// One entry of the attention map, for the references of the ops that show parts of it.
#pragma once
#include <cmath>

#include "attention/scalar.ref.h"

namespace tk::attention::ref {

inline double lse_of(const void* lse, DType dtype, int64_t row) {
  return dtype == DType::f64 ? static_cast<const double*>(lse)[row] : static_cast<const float*>(lse)[row];
}

// Of a pair that the policy allows. Zero for a query without any key, and for a key that its bias hides.
template <class T, class Args>
double probability(const Args& a, int64_t b, int64_t h, int64_t i, int64_t j, double lse) {
  const double bias = bias_of(a.key_bias, b, h, j);
  if (lse == kMinusInfinity || bias == kMinusInfinity) return 0.0;
  const T* key = head_row<T>(a.k, b, h / (a.shape.heads / a.shape.groups), j);
  return std::exp(a.scale * dot(head_row<T>(a.q, b, h, i), key, a.shape.width) + bias - lse);
}

}  // namespace tk::attention::ref
