// SPDX-License-Identifier: Apache-2.0
// A warp takes a row: the softmax, the chosen, then every gradient as if it had not been chosen, then those of the
// chosen in their place.
#pragma once
#include "select/gate_warps.cuh"
#include "select/topk_gate_backward.h"

namespace tk::selection::gpu {

constexpr int kTopkBackwardThreads = 256;

template <class T>
__global__ void __launch_bounds__(kTopkBackwardThreads) topk_gate_backward_kernel(TopkGateBackwardArgs a) {
  const int64_t row = (int64_t{blockIdx.x} * kTopkBackwardThreads + threadIdx.x) / 32;
  if (row >= a.logits.rows) return;
  const int64_t lane = threadIdx.x % 32;
  const int64_t n = a.logits.width;
  const T* logits = score_row<T>(a.logits, row);
  const int64_t* index = a.index + row * a.k;
  const float* grad = a.grad + row * a.k;
  T* out = static_cast<T*>(a.grad_logits) + row * n;
  RowSoftmax softmax = warp_softmax(logits, n);
  float mass = 0.0f;
  float dot = 0.0f;
  for (int64_t i = lane; i < a.k; i += 32) {
    if (index[i] < 0 || index[i] >= n) continue;
    const float p = softmax(to_float(logits[index[i]]));
    mass += p;
    dot += grad[i] * p;
  }
  mass = a.normalize ? warp_sum(mass) : 1.0f;
  dot = warp_sum(dot) / mass;
  for (int64_t e = lane; e < n; e += 32) {
    out[e] = from_float<T>(a.normalize ? 0.0f : softmax(to_float(logits[e])) * -dot);
  }
  __syncwarp();
  for (int64_t i = lane; i < a.k; i += 32) {
    if (index[i] < 0 || index[i] >= n) continue;
    out[index[i]] = from_float<T>(softmax(to_float(logits[index[i]])) / mass * (grad[i] - dot));
  }
}

}  // namespace tk::selection::gpu
