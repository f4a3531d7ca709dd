// SPDX-License-Identifier: Apache-2.0
// One warp copies one row; Word is the widest type that divides the row and fits its alignment.
#pragma once
#include "core/gpu.cuh"
#include "merge/segment_broadcast.h"
#include "merge/segment_members.cuh"

namespace tk::merge::gpu {

constexpr int kBroadcastThreads = 256;

template <class Word>
struct BroadcastRows {
  const Word* y;
  SegmentIndex index;
  Word* out;
  int64_t total, tokens, segments, words, batch_stride, row_stride;  // rows in words
};

template <class Word>
__global__ void __launch_bounds__(kBroadcastThreads) segment_broadcast_kernel(BroadcastRows<Word> a) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * kBroadcastThreads + threadIdx.x) / 32;
  if (row >= a.total) return;
  const int64_t b = row / a.tokens;
  const int64_t s = warp_segment_of(a.index, a.segments, b, row % a.tokens);
  const Word* from = a.y + b * a.batch_stride + s * a.row_stride;
  for (int64_t c = lane; c < a.words; c += 32) a.out[row * a.words + c] = s >= 0 ? from[c] : Word{};
}

}  // namespace tk::merge::gpu
