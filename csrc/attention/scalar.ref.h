// SPDX-License-Identifier: Apache-2.0
// What the scalar references share: numbers of any dtype as double, and scores of pairs.
#pragma once
#include <limits>

#include "attention/attention.h"
#include "core/head_row.h"

namespace tk::attention::ref {

inline double to_double(double x) { return x; }
template <class T>
double to_double(T x) {
  return to_float(x);
}

inline void assign(double* to, double x) { *to = x; }
template <class T>
void assign(T* to, double x) {
  *to = from_float<T>(static_cast<float>(x));
}

template <class T>
double dot(const T* x, const T* y, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += to_double(x[d]) * to_double(y[d]);
  return sum;
}

inline double bias_of(const KeyBias& bias, int64_t b, int64_t h, int64_t j) {
  return bias.data ? bias.data[b * bias.batch_stride + h * bias.head_stride + j] : 0.0;
}

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// TK_FLOAT_SWITCH and float64 besides.
#define TK_SCALAR_SWITCH(dtype, T, ...)    \
  if ((dtype) == ::tk::DType::f64) {       \
    using T = double;                      \
    __VA_ARGS__;                           \
  } else {                                 \
    TK_FLOAT_SWITCH(dtype, T, __VA_ARGS__) \
  }

}  // namespace tk::attention::ref
