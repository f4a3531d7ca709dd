// SPDX-License-Identifier: Apache-2.0
// One thread sums P neighbouring channels of a row over its codes.
#pragma once
#include "core/gpu.cuh"
#include "quantize/rvq_decode.h"

namespace tk::quantize::gpu {

constexpr int kDecodeThreads = 256;

// Moved at once.
template <class T, int P>
struct alignas(sizeof(T) * P) DecodePiece {
  T item[P];
};

template <class T, int P>
__global__ void __launch_bounds__(kDecodeThreads) rvq_decode_kernel(RvqDecodeArgs a) {
  const int64_t pieces = a.width / P;
  const int64_t i = int64_t{blockIdx.x} * kDecodeThreads + threadIdx.x;
  if (i >= a.groups * a.rows * pieces) return;
  const int64_t row = i / pieces;
  const int64_t d = i % pieces * P;
  const int64_t* index = a.index + row * a.books;
  const T* codes = static_cast<const T*>(a.codes) + row / a.rows * a.group_stride + d;
  float sum[P] = {};
  bool empty = true;
  for (int64_t q = 0; q < a.layers; ++q) {
    const int64_t k = index[q];
    if (k < 0 || k >= a.codes_count) continue;
    const auto code = *reinterpret_cast<const DecodePiece<T, P>*>(codes + q * a.book_stride + k * a.code_stride);
#pragma unroll
    for (int p = 0; p < P; ++p) sum[p] = empty ? to_float(code.item[p]) : sum[p] + to_float(code.item[p]);
    empty = false;
  }
  DecodePiece<T, P> rounded;
#pragma unroll
  for (int p = 0; p < P; ++p) rounded.item[p] = from_float<T>(sum[p]);
  *reinterpret_cast<DecodePiece<T, P>*>(static_cast<T*>(a.out) + row * a.width + d) = rounded;
}

}  // namespace tk::quantize::gpu
