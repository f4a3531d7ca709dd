// SPDX-License-Identifier: Apache-2.0
// One warp a row: its largest magnitude, then two channels a lane.
#pragma once
#include "select/block_sums.cuh"
#include "select/split_bits.h"

namespace tk::selection::gpu {

constexpr int kSplitThreads = 128;

// By one warp; infinite where one is NaN.
template <class T>
__device__ __forceinline__ float largest_size(const T* x, int64_t width) {
  float largest = 0.0f;
  for (int64_t d = threadIdx.x % 32; d < width; d += 32) {
    const float size = fabsf(to_float(x[d]));
    largest = size == size ? fmaxf(largest, size) : kInfinity;
  }
  return warp_combined(largest, Larger{});
}

template <class T>
__global__ void __launch_bounds__(kSplitThreads) split_bits_kernel(SplitBitsArgs a, int64_t rows) {
  const int64_t row = (int64_t{blockIdx.x} * kSplitThreads + threadIdx.x) / 32;
  if (row >= rows) return;
  const int lane = threadIdx.x % 32;
  const T* x = row_of<T>(a, row);
  const float most = most_of(a.bits);
  const float scale = scale_of(largest_size(x, a.width), most);
  if (lane == 0) a.scale[row] = scale;
  const int mask = (1 << a.bits.low) - 1;
  uint8_t* low = a.low + row * low_bytes(a.width, a.bits.low);
  for (int64_t i = lane; i < (a.width + 1) / 2; i += 32) {
    int32_t both = 0;
    for (int64_t d = 2 * i; d < 2 * i + 2 && d < a.width; ++d) {
      const int32_t n = whole_number(to_float(x[d]), scale, most);
      a.high[row * a.width + d] = static_cast<int8_t>(n >> a.bits.low);
      both |= (n & mask) << (d % 2 * 4);
    }
    if (a.bits.low > 0) low[i] = static_cast<uint8_t>(both);
  }
}

}  // namespace tk::selection::gpu
