// SPDX-License-Identifier: Apache-2.0
// One thread a bit.
#pragma once
#include "core/gpu.cuh"
#include "quantize/bit_entropy_backward.h"
#include "quantize/sign_entropy.h"

namespace tk::quantize::gpu {

constexpr int kBitGradientThreads = 256;

template <class T>
__global__ void __launch_bounds__(kBitGradientThreads) bit_entropy_backward_kernel(BitEntropyBackwardArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kBitGradientThreads + threadIdx.x;
  if (i >= a.rows * a.width) return;
  const float z = to_float(static_cast<const T*>(a.x)[i]) * a.slope;
  const float size = fabsf(z);
  const float found = size > kSaturatedBit ? 0.0f : sign_slope(size, expf(-size));
  static_cast<T*>(a.grad_x)[i] = from_float<T>((z < 0.0f ? found : -found) * a.grad[i / a.width] * a.slope);
}

}  // namespace tk::quantize::gpu
