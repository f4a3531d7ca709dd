// SPDX-License-Identifier: Apache-2.0
// A thread a row of the answer: the running softmax of one node and one query head.
#pragma once
#include "core/gpu.cuh"
#include "tree/tree_attention.h"

namespace tk::tree::gpu {

constexpr int kMostWidth = 256;

template <class T>
__global__ void tree_attention_kernel(TreeAttentionArgs a) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= a.batch * a.heads * a.nodes) return;
  const int64_t node = row % a.nodes;
  const int64_t h = row / a.nodes % a.heads;
  const int64_t b = row / a.nodes / a.heads;
  const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
  const int64_t length = prefix_length(a, b);
  const T* q = head_row<T>(a.q, b, h, node);
  const T* k = head_row<T>(a.k, 0, h / (a.heads / a.groups));
  const T* v = head_row<T>(a.v, 0, h / (a.heads / a.groups));
  float sums[kMostWidth] = {};
  float most = -kInfinity;
  float sum = 0;
  int64_t above = node < count_nodes(a, b) ? node : -1;  // the next of the node and its ancestors
  for (int64_t j = 0; above >= 0; ++j) {
    int64_t at = j;
    if (j >= length) {
      at = length + above;
      above = parents[above];
    }
    const T* key = k + cache_offset(a.k, a.table, b, at);
    const T* value = v + cache_offset(a.v, a.table, b, at);
    float score = 0;
    for (int64_t d = 0; d < a.width; ++d) score = fmaf(to_float(q[d]), to_float(key[d]), score);
    score *= static_cast<float>(a.scale);
    if (score == -kInfinity) continue;
    const float higher = score <= most ? most : score;
    const float factor = expf(most - higher);
    const float weight = expf(score - higher);
    for (int64_t d = 0; d < a.width; ++d) sums[d] = sums[d] * factor + weight * to_float(value[d]);
    sum = sum * factor + weight;
    most = higher;
  }
  if (a.lse) a.lse[row] = sum == 0 ? -kInfinity : most + logf(sum);
  for (int64_t d = 0; d < a.width; ++d) {
    static_cast<T*>(a.out)[row * a.width + d] = from_float<T>(sum == 0 ? 0.0f : sums[d] / sum);
  }
}

}  // namespace tk::tree::gpu
