// SPDX-License-Identifier: Apache-2.0
// One thread packs one word.
#pragma once
#include "attention/pack_ancestors.h"
#include "core/gpu.cuh"

namespace tk::attention::gpu {

constexpr int kPackThreads = 128;

template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    pack_ancestors_kernel(const uint8_t* seen, uint64_t* words, int64_t rows, int64_t nodes, int64_t row_stride) {
  const int64_t per_row = (nodes + 63) / 64;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows * per_row) return;
  const int64_t first = i % per_row * 64;
  words[i] = pack_word(seen + i / per_row * row_stride + first, nodes - first);
}

}  // namespace tk::attention::gpu
