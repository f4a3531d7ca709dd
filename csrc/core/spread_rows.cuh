// SPDX-License-Identifier: Apache-2.0
// The order in which rows of a tile are filled, so that a quarter of a warp, which stores two rows of four 16-byte
// words each, meets every bank of shared memory once.
#pragma once
#include "core/gpu.cuh"

namespace tk {

// The n-th row to fill, for rows 80 bytes apart and a multiple of eight of them: neighbours would share four banks,
// rows four apart share none.
__device__ __forceinline__ int spread_row(int n) { return n / 8 * 8 + n % 2 * 4 + n % 8 / 2; }

}  // namespace tk
