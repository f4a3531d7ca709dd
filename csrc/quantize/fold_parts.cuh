// SPDX-License-Identifier: Apache-2.0
// What blocks have summed up for themselves, added up in their order.
#pragma once
#include "core/gpu.cuh"

namespace tk::quantize::gpu {

constexpr int kFoldThreads = 256;

// out[i] = parts [outer][part][inner] added up over parts, in their order.
template <class Sum>
__global__ void __launch_bounds__(kFoldThreads)
    fold_parts_kernel(const float* parts, float* out, int64_t count, int64_t parts_count, int64_t inner, Sum factor) {
  const int64_t i = int64_t{blockIdx.x} * kFoldThreads + threadIdx.x;
  if (i >= count) return;
  const float* from = parts + i / inner * parts_count * inner + i % inner;
  Sum sum = 0;
  for (int64_t part = 0; part < parts_count; ++part) sum += from[part * inner];
  out[i] = static_cast<float>(factor * sum);
}

template <class Sum>
void launch_fold(const float* parts, float* out, int64_t count, int64_t parts_count, int64_t inner, Sum factor,
                 void* stream) {
  launch(fold_parts_kernel<Sum>, dim3(static_cast<unsigned>((count + kFoldThreads - 1) / kFoldThreads)),
         dim3(kFoldThreads), 0, stream, parts, out, count, parts_count, inner, factor);
}

}  // namespace tk::quantize::gpu
