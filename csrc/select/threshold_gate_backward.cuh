// SPDX-License-Identifier: Apache-2.0
// One thread an item.
#pragma once
#include "core/gpu.cuh"
#include "select/threshold_gate_backward.h"

namespace tk::selection::gpu {

constexpr int kGateBackwardThreads = 256;

template <class T>
__global__ void __launch_bounds__(kGateBackwardThreads) threshold_gate_backward_kernel(ThresholdGateBackwardArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kGateBackwardThreads + threadIdx.x;
  if (i >= a.count) return;
  const float x = to_float(static_cast<const T*>(a.logits)[i]) + a.noise[i];
  const float e = expf(-fabsf(x / a.tau));  // s (1 - s) is even in x
  const float slope = e / ((1.0f + e) * (1.0f + e)) / a.tau;
  static_cast<T*>(a.grad_logits)[i] = from_float<T>(to_float(static_cast<const T*>(a.grad)[i]) * slope);
}

}  // namespace tk::selection::gpu
