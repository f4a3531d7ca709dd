// SPDX-License-Identifier: Apache-2.0
// One thread an item.
#pragma once
#include "core/gpu.cuh"
#include "select/threshold_gate.h"

namespace tk::selection::gpu {

constexpr int kGateThreads = 256;

template <class T>
__global__ void __launch_bounds__(kGateThreads) threshold_gate_kernel(ThresholdGateArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kGateThreads + threadIdx.x;
  if (i >= a.count) return;
  const float x = to_float(static_cast<const T*>(a.logits)[i]) + (a.noise ? a.noise[i] : 0.0f);
  static_cast<T*>(a.gate)[i] = from_float<T>(x > 0.0f ? 1.0f : 0.0f);
}

}  // namespace tk::selection::gpu
