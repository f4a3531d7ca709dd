// SPDX-License-Identifier: Apache-2.0
// One thread an element.
#pragma once
#include "core/gpu.cuh"
#include "quantize/fsq_encode_backward.h"

namespace tk::quantize::gpu {

constexpr int kGridGradThreads = 256;

template <class T>
__global__ void __launch_bounds__(kGridGradThreads) fsq_encode_backward_kernel(FsqEncodeBackwardArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kGridGradThreads + threadIdx.x;
  if (i >= a.rows * a.grid.axes) return;
  const float grad = to_float(static_cast<const T*>(a.grad)[i]);
  const float z = to_float(static_cast<const T*>(a.z)[i]);
  static_cast<T*>(a.grad_z)[i] = from_float<T>(fsq_gradient(a.grid, static_cast<int>(i % a.grid.axes), grad, z));
}

}  // namespace tk::quantize::gpu
