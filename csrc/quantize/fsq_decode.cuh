// SPDX-License-Identifier: Apache-2.0
// One thread a row, whose codes wait in shared memory until the block writes them side by side.
#pragma once
#include "core/gpu.cuh"
#include "quantize/fsq_decode.h"

namespace tk::quantize::gpu {

constexpr int kDecodeThreads = 256;
constexpr int kDecodeTile = 2048;  // codes of a block, at most

TK_INLINE int64_t decode_tile_rows(int axes) {
  return kDecodeTile / axes < kDecodeThreads ? kDecodeTile / axes : kDecodeThreads;
}

template <class T>
__global__ void __launch_bounds__(kDecodeThreads) fsq_decode_kernel(FsqDecodeArgs a) {
  TK_SHARED(code, float[kDecodeTile * 3 / 2]);
  const int axes = a.grid.axes;
  const int pitch = axes | 1;  // odd: the rows of a warp begin in different banks
  const int64_t first = int64_t{blockIdx.x} * decode_tile_rows(axes);
  const int64_t left = a.rows - first;
  const int rows = static_cast<int>(left < decode_tile_rows(axes) ? left : decode_tile_rows(axes));
  if (static_cast<int>(threadIdx.x) < rows) {
    int64_t rest = a.index[first + threadIdx.x];
    for (int d = 0; d < axes; ++d) {
      code[threadIdx.x * pitch + d] = grid_code(a.grid, d, static_cast<float>(rest % a.grid.levels[d]));
      rest /= a.grid.levels[d];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rows * axes; i += kDecodeThreads) {
    static_cast<T*>(a.codes)[first * axes + i] = from_float<T>(code[i / axes * pitch + i % axes]);
  }
}

}  // namespace tk::quantize::gpu
