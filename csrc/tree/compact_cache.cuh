// SPDX-License-Identifier: Apache-2.0
// A thread owns one word of every row of a group, so that nobody else reads or writes what it moves. It reads kAtOnce
// rows before it writes them: their addresses do not wait for each other.
#pragma once
#include "core/gpu.cuh"
#include "tree/compact_cache.h"

namespace tk::tree::gpu {

constexpr int kCompactThreads = 128;
constexpr int kAtOnce = 8;

// Strides of `a` in words.
template <class Word>
__device__ __forceinline__ void move_words(const CompactCacheArgs& a, int64_t b, Word* column) {
  const int64_t nodes = path_nodes(a, b);
  for (int64_t t = 0; t < nodes; t += kAtOnce) {
    Word word[kAtOnce];
    int64_t from[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      from[i] = t + i < nodes ? cache_row(a, b, a.lengths[b] + a.path[b * a.nodes + t + i]) : -1;
      if (from[i] >= 0) word[i] = column[from[i]];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t to = from[i] >= 0 ? cache_row(a, b, a.lengths[b] + t + i) : -1;
      if (to >= 0 && to != from[i]) column[to] = word[i];
    }
  }
}

template <class Word>
__global__ void __launch_bounds__(kCompactThreads) compact_cache_kernel(CompactCacheArgs a, int64_t words) {
  const int64_t i = int64_t{blockIdx.x} * kCompactThreads + threadIdx.x;
  if (i < a.batch) a.new_lengths[i] = a.lengths[i] + path_nodes(a, i);
  if (i >= a.layers * a.batch * a.groups * words) return;
  const int64_t g = i / words % a.groups;
  const int64_t b = i / words / a.groups % a.batch;
  const int64_t l = i / words / a.groups / a.batch;
  move_words(a, b, static_cast<Word*>(a.cache) + l * a.layer_stride + g * a.group_stride + i % words);
}

}  // namespace tk::tree::gpu
