// SPDX-License-Identifier: Apache-2.0
// Probabilities of sign bits, and products over them. Included by per-ISA files only.
#pragma once
#include "core/scratch.h"
#include "core/simd.h"
#include "quantize/subcode_histogram.h"

namespace tk::quantize {
namespace {

// p and 1 - p, both to a few roundings of themselves.
TK_INLINE void sign_shares(vf z, vf* yes, vf* no) {
  const vf size = abs(z);
  const vf power = exp(-size);
  const vf large = 1.0f / (power + 1.0f);
  const vf small = power * large;
  *yes = select(z < zero(), small, large);
  *no = select(z < zero(), large, small);
}

// Bits of group g of row n, by their worth: the lowest first.
template <class T, class Args>
TK_INLINE void load_bits(const Args& a, int64_t n, int64_t g, float* bits) {
  const T* x = static_cast<const T*>(a.x) + n * a.x_row_stride + g * a.x_group_stride;
  for (int64_t j = 0; j < a.bits; ++j) bits[a.msb ? a.bits - 1 - j : j] = to_float(x[j]) * a.slope;
}

TK_INLINE void shares_of_bits(const float* bits, float* yes, float* no) {
  for (int j = 0; j < kMostSubcodeBits; j += W) {
    vf y, n;
    sign_shares(load(bits + j), &y, &n);
    store(yes + j, y);
    store(no + j, n);
  }
}

}  // namespace
}  // namespace tk::quantize
