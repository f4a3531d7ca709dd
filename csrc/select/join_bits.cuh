// SPDX-License-Identifier: Apache-2.0
// One thread a channel.
#pragma once
#include "core/gpu.cuh"
#include "select/join_bits.h"

namespace tk::selection::gpu {

constexpr int kJoinThreads = 256;

static __global__ void __launch_bounds__(kJoinThreads) join_bits_kernel(JoinBitsArgs a, int64_t items) {
  const int64_t at = int64_t{blockIdx.x} * kJoinThreads + threadIdx.x;
  if (at < items) a.out[at] = joined(joined_row(a, at / a.width), at % a.width, a.low_bits);
}

}  // namespace tk::selection::gpu
