// SPDX-License-Identifier: Apache-2.0
// One thread a code: what nearest answered part by part, written row by row.
#pragma once
#include "core/gpu.cuh"
#include "quantize/pq_encode.h"

namespace tk::quantize::gpu {

constexpr int kPqEncodeThreads = 256;

template <class C>
__global__ void __launch_bounds__(kPqEncodeThreads)
    pq_encode_kernel(const int64_t* index, int64_t parts, int64_t rows, C* codes) {
  const int64_t i = int64_t{blockIdx.x} * kPqEncodeThreads + threadIdx.x;
  if (i < parts * rows) codes[i] = static_cast<C>(index[i % parts * rows + i / parts]);
}

}  // namespace tk::quantize::gpu
