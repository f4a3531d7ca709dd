// SPDX-License-Identifier: Apache-2.0
// One warp a group of bits. Lanes are the lower 5 bits of a code, the higher ones take their turn.
#pragma once
#include "quantize/subcode_histogram_backward.h"
#include "quantize/subcode_shares.cuh"

namespace tk::quantize::gpu {

constexpr int kSubcodeThreads = 256;
constexpr int kSubcodeWarps = kSubcodeThreads / 32;
constexpr int kLaneBits = 5;

// The product over bits [begin, end) of a code but for one of them.
__device__ __forceinline__ float share_product(const float* yes, const float* no, int64_t code, int begin, int end,
                                               int but) {
  float product = 1.0f;
  for (int j = begin; j < end; ++j) {
    if (j != but) product *= code >> j & 1 ? yes[j] : no[j];
  }
  return product;
}

__device__ __forceinline__ float warp_total(float x) {
  for (int o = 16; o > 0; o /= 2) x += __shfl_xor_sync(kAllLanes, x, o);
  return x;
}

template <class T>
__global__ void __launch_bounds__(kSubcodeThreads) subcode_histogram_backward_kernel(SubcodeHistogramBackwardArgs a) {
  TK_SHARED(all_yes, float[kSubcodeWarps][kMostSubcodeBits]);
  TK_SHARED(all_no, float[kSubcodeWarps][kMostSubcodeBits]);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t item = int64_t{blockIdx.x} * kSubcodeWarps + warp;
  if (item >= a.rows * a.groups) return;
  const int bits = static_cast<int>(a.bits);
  const int low = bits < kLaneBits ? bits : kLaneBits;
  const int64_t codes = int64_t{1} << bits;
  const float* grad = a.grad + (a.pool ? 0 : item % a.groups * codes);
  float* yes = all_yes[warp];
  float* no = all_no[warp];
  if (lane < bits) share_of_bit<T>(a, item / a.groups, item % a.groups, lane, &yes[lane], &no[lane]);
  __syncwarp();
  const float averaged = static_cast<float>(a.pool ? a.rows * a.groups : a.rows);
  for (int j = 0; j < bits; ++j) {
    const float own = share_product(yes, no, lane, 0, low, j);
    float sum = 0.0f;
    for (int64_t code = lane; code < codes; code += 32) {
      const float product = own * share_product(yes, no, code, low, bits, j);
      sum = fmaf(code >> j & 1 ? product : -product, grad[code], sum);
    }
    const float by_p = warp_total(sum);
    const float slope = yes[j] * no[j] * (a.slope / averaged);
    if (lane != 0) continue;
    static_cast<T*>(a.grad_x)[item * a.bits + (a.msb ? bits - 1 - j : j)] =
        from_float<T>(slope == 0.0f ? 0.0f : slope * by_p);
  }
}

}  // namespace tk::quantize::gpu
