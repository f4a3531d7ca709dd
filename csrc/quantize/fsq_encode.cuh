// SPDX-License-Identifier: Apache-2.0
// A block takes whole rows: one thread an element, whose level goes to shared memory; then one thread a row.
#pragma once
#include "core/gpu.cuh"
#include "quantize/fsq_encode.h"

namespace tk::quantize::gpu {

constexpr int kGridThreads = 256;
constexpr int kGridTile = 1024;  // elements of a block, at most

TK_INLINE int64_t grid_tile_rows(int axes) { return kGridTile / axes; }

template <class T>
__global__ void __launch_bounds__(kGridThreads) fsq_encode_kernel(FsqEncodeArgs a) {
  TK_SHARED(level, int32_t[kGridTile * 3 / 2]);
  const int axes = a.grid.axes;
  const int pitch = axes | 1;  // odd: the rows of a warp begin in different banks
  const int64_t first = int64_t{blockIdx.x} * grid_tile_rows(axes);
  const int64_t left = a.rows - first;
  const int rows = static_cast<int>(left < grid_tile_rows(axes) ? left : grid_tile_rows(axes));
  for (int i = threadIdx.x; i < rows * axes; i += kGridThreads) {
    const int64_t at = first * axes + i;
    const int d = i % axes;
    const float z = to_float(static_cast<const T*>(a.z)[at]);
    const int32_t own = grid_level_of(a.grid, d, z);
    level[i / axes * pitch + d] = own;
    static_cast<T*>(a.codes)[at] = from_float<T>(z == z ? grid_code(a.grid, d, static_cast<float>(own)) : z);
  }
  __syncthreads();
  for (int r = threadIdx.x; r < rows; r += kGridThreads) {
    int64_t index = 0;
    for (int d = axes - 1; d >= 0; --d) index = index * a.grid.levels[d] + level[r * pitch + d];
    a.index[first + r] = index;
  }
}

}  // namespace tk::quantize::gpu
