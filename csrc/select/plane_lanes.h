// SPDX-License-Identifier: Apache-2.0
// Rows of floats as whole numbers (bit_planes.h), a vector at a time. Included by per-ISA files only.
#pragma once
#include "core/simd.h"
#include "select/bit_planes.h"

namespace tk::selection {
namespace {

TK_INLINE vi larger(vi a, vi b) { return a > b ? a : b; }

// Magnitudes compare as integers, and those of NaN and infinity are above all others.
template <class T>
inline float row_scale(const T* x, int64_t n, float most) {
  vi bits[2] = {};
  int64_t d = 0;
  for (; d + 2 * W <= n; d += 2 * W) {
    bits[0] = larger(bits[0], (vi)abs(load(x + d)));
    bits[1] = larger(bits[1], (vi)abs(load(x + d + W)));
  }
  for (; d < n; d += W) {
    const vf tail = n - d < W ? load_n(x + d, static_cast<int>(n - d)) : load(x + d);
    bits[0] = larger(bits[0], (vi)abs(tail));
  }
  bits[0] = larger(bits[0], bits[1]);
  int32_t largest = 0;
  for (int l = 0; l < W; ++l) largest = bits[0][l] > largest ? bits[0][l] : largest;
  return scale_of(largest >= 0x7f800000 ? __builtin_inff() : detail::bit_cast<float>(largest), most);
}

// whole_number of a vector; scale > 0.
TK_INLINE vi whole_numbers(vf x, float scale, float most) {
  const vf rounded = (x / set(scale) + 12582912.0f) - 12582912.0f;
  return __builtin_convertvector(min(max(rounded, set(-most)), set(most)), vi);
}

// n whole numbers of a row, to an integer type that holds them.
template <class T, class Int>
inline void quantise_row(const T* x, int64_t n, float scale, float most, Int* to) {
  typedef Int lanes __attribute__((vector_size(W * sizeof(Int)), may_alias, aligned(sizeof(Int))));
  if (!(scale > 0.0f)) return static_cast<void>(__builtin_memset(to, 0, static_cast<size_t>(n) * sizeof(Int)));
  int64_t d = 0;
  for (; d + W <= n; d += W) {
    *reinterpret_cast<lanes*>(to + d) = __builtin_convertvector(whole_numbers(load(x + d), scale, most), lanes);
  }
  for (; d < n; ++d) to[d] = static_cast<Int>(whole_number(to_float(x[d]), scale, most));
}

}  // namespace
}  // namespace tk::selection
