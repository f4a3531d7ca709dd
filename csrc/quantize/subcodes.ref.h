// SPDX-License-Identifier: Apache-2.0
// Probabilities of sign bits and of codes made of them, in double.
#pragma once
#include <cmath>
#include <vector>

#include "core/dtype.h"

namespace tk::quantize::ref {
namespace {

template <class Args>
std::vector<double> bit_probabilities(const Args& a, int64_t n, int64_t g) {
  std::vector<double> p(a.bits);
  TK_FLOAT_SWITCH(a.dtype, T, {
    const T* x = static_cast<const T*>(a.x) + n * a.x_row_stride + g * a.x_group_stride;
    for (int64_t j = 0; j < a.bits; ++j) p[j] = 1 / (1 + std::exp(-static_cast<double>(a.slope) * to_float(x[j])));
  })
  return p;
}

template <class Args>
bool bit_of(const Args& a, int64_t code, int64_t j) {
  return (code >> (a.msb ? a.bits - 1 - j : j) & 1) != 0;
}

// The product over all bits but one; -1 leaves none out.
template <class Args>
double code_product(const Args& a, const std::vector<double>& p, int64_t code, int64_t but) {
  double product = 1;
  for (int64_t j = 0; j < a.bits; ++j) {
    if (j != but) product *= bit_of(a, code, j) ? p[j] : 1 - p[j];
  }
  return product;
}

}  // namespace
}  // namespace tk::quantize::ref
