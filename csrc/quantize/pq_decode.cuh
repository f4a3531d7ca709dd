// SPDX-License-Identifier: Apache-2.0
// One thread an element, neighbours next to each other.
#pragma once
#include "core/gpu.cuh"
#include "quantize/pq_decode.h"

namespace tk::quantize::gpu {

constexpr int kPqDecodeThreads = 256;

template <class C, class T>
__global__ void __launch_bounds__(kPqDecodeThreads) pq_decode_kernel(PqDecodeArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kPqDecodeThreads + threadIdx.x;
  const int64_t width = a.codes.parts * a.width;
  if (i >= a.codes.rows * width) return;
  const int64_t m = i % width / a.width;
  const auto code = static_cast<int64_t>(row_codes<C>(a.codes, i / width)[m]);
  const bool known = code >= 0 && code < a.codes_count;
  const T* part = static_cast<const T*>(a.centroids) + m * a.part_stride;
  static_cast<T*>(a.out)[i] = known ? part[code * a.centroid_stride + i % a.width] : T{};
}

}  // namespace tk::quantize::gpu
