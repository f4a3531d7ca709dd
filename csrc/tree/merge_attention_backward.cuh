// SPDX-License-Identifier: Apache-2.0
// A warp a row. The product of part k waits in grad_lses, with lane k % 32, until the mean of all is known.
#pragma once
#include "tree/merge_attention.cuh"
#include "tree/merge_attention_backward.h"

namespace tk::tree::gpu {

constexpr int kMergeRows = kMergeThreads / 32;  // of a block

template <class T>
__global__ void __launch_bounds__(kMergeThreads) merge_attention_backward_kernel(MergeAttentionBackwardArgs a) {
  const PartShape& s = a.shape;
  const int lane = threadIdx.x % 32;
  const int64_t rows = s.batch * s.heads * s.rows;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMergeRows + threadIdx.x / 32;
  if (row >= rows) return;
  const int64_t b = row / s.rows / s.heads;
  const int64_t h = row / s.rows % s.heads;
  const int64_t n = row % s.rows;
  const T* grad = head_row<T>(a.grad, b, h, n);
  const float* lses = part_lse(a.lses, 0, b, h, n);
  const int64_t step = a.lses.part_stride;
  const float most = largest_lse(lses, step, s.parts);
  float sum = 0.0f;
  for (int64_t k = 0; k < s.parts; ++k) {
    if (lses[k * step] != -kInfinity) sum += expf(lses[k * step] - most);
  }
  float mean = 0.0f;
  for (int64_t k = 0; k < s.parts; ++k) {
    const bool seen = lses[k * step] != -kInfinity;
    const float weight = seen ? expf(lses[k * step] - most) / sum : 0.0f;
    const T* out = part_row<T>(a.outs, a.part_stride, k, b, h, n);
    T* to = static_cast<T*>(a.grad_outs) + (k * rows + row) * s.width;
    float product = 0.0f;
    for (int64_t d = lane; d < s.width; d += 32) {
      const float g = to_float(grad[d]);
      to[d] = from_float<T>(seen ? weight * g : 0.0f);
      if (seen) product = fmaf(g, to_float(out[d]), product);
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) product += __shfl_xor_sync(kAllLanes, product, lanes);
    if (seen) mean = fmaf(weight, product, mean);
    if (lane == k % 32) a.grad_lses[k * rows + row] = product;
  }
  const float shift = (a.grad_lse ? a.grad_lse[row] : 0.0f) - mean;
  for (int64_t k = lane; k < s.parts; k += 32) {
    float* change = a.grad_lses + k * rows + row;
    const float lse = lses[k * step];
    *change = lse == -kInfinity ? 0.0f : expf(lse - most) / sum * (*change + shift);
  }
}

}  // namespace tk::tree::gpu
