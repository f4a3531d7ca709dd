// SPDX-License-Identifier: Apache-2.0
// One thread an item; boundaries that fit are searched in shared memory.
#pragma once
#include "core/gpu.cuh"
#include "quantize/bucketize.h"

namespace tk::quantize::gpu {

constexpr int kBucketThreads = 256;
constexpr int kBucketItems = 4;  // of a thread
constexpr int kSharedBoundaries = 1024;

template <class T>
__global__ void __launch_bounds__(kBucketThreads) bucketize_kernel(BucketizeArgs a) {
  TK_SHARED(copy, float[kSharedBoundaries]);
  const bool near = a.boundary_count <= kSharedBoundaries;
  for (int64_t m = threadIdx.x; near && m < a.boundary_count; m += kBucketThreads) copy[m] = a.boundaries[m];
  __syncthreads();
  const float* boundaries = near ? copy : a.boundaries;
  for (int r = 0; r < kBucketItems; ++r) {
    const int64_t i = (int64_t{blockIdx.x} * kBucketItems + r) * kBucketThreads + threadIdx.x;
    if (i >= a.count) return;
    const int64_t bucket = bucket_of(to_float(static_cast<const T*>(a.x)[i]), boundaries, a.boundary_count);
    if (a.bytes) {
      static_cast<uint8_t*>(a.index)[i] = static_cast<uint8_t>(bucket);
    } else {
      static_cast<int64_t*>(a.index)[i] = bucket;
    }
  }
}

}  // namespace tk::quantize::gpu
