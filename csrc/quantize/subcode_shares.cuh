// SPDX-License-Identifier: Apache-2.0
// Probabilities of sign bits on the device.
#pragma once
#include "core/gpu.cuh"

namespace tk::quantize::gpu {

// p and 1 - p of the bit that is worth 2^j, both to a few roundings of themselves.
template <class T, class Args>
__device__ __forceinline__ void share_of_bit(const Args& a, int64_t n, int64_t g, int j, float* yes, float* no) {
  const T* x = static_cast<const T*>(a.x) + n * a.x_row_stride + g * a.x_group_stride;
  const float z = to_float(x[a.msb ? a.bits - 1 - j : j]) * a.slope;
  const float power = expf(-fabsf(z));
  const float large = 1.0f / (power + 1.0f);
  *yes = z < 0.0f ? power * large : large;
  *no = z < 0.0f ? large : power * large;
}

}  // namespace tk::quantize::gpu
