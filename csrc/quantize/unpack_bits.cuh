// SPDX-License-Identifier: Apache-2.0
// One thread an id, which has parts in up to three bytes.
#pragma once
#include "core/gpu.cuh"
#include "quantize/unpack_bits.h"

namespace tk::quantize::gpu {

constexpr int kUnpackBitsThreads = 256;

template <int threads>
__global__ void __launch_bounds__(threads) unpack_bits_kernel(UnpackBitsArgs a) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= a.rows * a.width) return;
  const uint8_t* row = a.bytes + i / a.width * packed_bytes(a.width, a.bits);
  const int64_t begin = i % a.width * a.bits;
  const int shift = static_cast<int>(begin % 8);
  unsigned own = 0;
  for (int k = 0; k * 8 < shift + a.bits; ++k) own |= unsigned{row[begin / 8 + k]} << (8 * k);
  a.ids[i] = own >> shift & ((1u << a.bits) - 1);
}

}  // namespace tk::quantize::gpu
