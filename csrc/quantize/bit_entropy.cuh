// SPDX-License-Identifier: Apache-2.0
// One warp a row.
#pragma once
#include "core/gpu.cuh"
#include "quantize/bit_entropy.h"
#include "quantize/sign_entropy.h"

namespace tk::quantize::gpu {

constexpr int kBitThreads = 256;
constexpr int kBitWarps = kBitThreads / 32;

template <class T>
__global__ void __launch_bounds__(kBitThreads) bit_entropy_kernel(BitEntropyArgs a) {
  const int64_t n = int64_t{blockIdx.x} * kBitWarps + threadIdx.x / 32;
  if (n >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + n * a.width;
  float sum = 0.0f;
  for (int64_t d = threadIdx.x % 32; d < a.width; d += 32) {
    const float size = fabsf(to_float(x[d]) * a.slope);
    if (!(size > kSaturatedBit)) sum += sign_entropy(size, expf(-size));
  }
  for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(kAllLanes, sum, o);
  if (threadIdx.x % 32 == 0) a.entropy[n] = sum;
}

}  // namespace tk::quantize::gpu
