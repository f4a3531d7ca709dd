// SPDX-License-Identifier: Apache-2.0
// One thread a byte, which holds parts of up to eight ids.
#pragma once
#include "core/gpu.cuh"
#include "quantize/pack_bits.h"

namespace tk::quantize::gpu {

constexpr int kPackThreads = 256;

template <int threads>
__global__ void __launch_bounds__(threads) pack_bits_kernel(PackBitsArgs a) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  const int64_t row_bytes = packed_bytes(a.width, a.bits);
  if (i >= a.rows * row_bytes) return;
  const int64_t* ids = a.ids + i / row_bytes * a.width;
  const int64_t begin = i % row_bytes * 8;  // in the string of bits
  unsigned byte = 0;
  for (int64_t m = begin / a.bits; m < a.width && m * a.bits < begin + 8; ++m) {
    const int64_t shift = m * a.bits - begin;
    const auto id = static_cast<unsigned>(ids[m]);
    byte |= shift >= 0 ? id << shift : id >> -shift;
  }
  a.bytes[i] = static_cast<uint8_t>(byte);
}

}  // namespace tk::quantize::gpu
