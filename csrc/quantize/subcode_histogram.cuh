// SPDX-License-Identifier: Apache-2.0
// One block some codes of one histogram and a part of its items, 32 at a time. A thread keeps codes that share their
// lower 8 bits; the products over the higher ones are the same for all threads.
#pragma once
#include "quantize/subcode_histogram.h"
#include "quantize/subcode_shares.cuh"

namespace tk::quantize::gpu {

constexpr int kHistogramThreads = 256;
constexpr int kLowBits = 8;   // 2^8 threads
constexpr int kOwnCodes = 8;  // of a thread
constexpr int kHistogramBatch = 32;

template <class T>
__global__ void __launch_bounds__(kHistogramThreads) subcode_histogram_kernel(SubcodeHistogramArgs a, float* parts) {
  TK_SHARED(yes, float[kHistogramBatch][kMostSubcodeBits]);
  TK_SHARED(no, float[kHistogramBatch][kMostSubcodeBits]);
  TK_SHARED(high, float[kHistogramBatch][kOwnCodes]);
  const int64_t items = a.pool ? a.rows * a.groups : a.rows;
  const int64_t histogram = blockIdx.z;
  const int bits = static_cast<int>(a.bits);
  const int low_bits = bits < kLowBits ? bits : kLowBits;
  const int64_t end = items * (blockIdx.x + 1) / gridDim.x;
  const int t = threadIdx.x;
  float sum[kOwnCodes] = {};
  for (int64_t first = items * blockIdx.x / gridDim.x; first < end; first += kHistogramBatch) {
    const int count = static_cast<int>(end - first < kHistogramBatch ? end - first : kHistogramBatch);
    __syncthreads();
    for (int i = t; i < count * bits; i += kHistogramThreads) {
      const int64_t item = first + i / bits;
      const int64_t n = a.pool ? item / a.groups : item;
      const int64_t g = a.pool ? item % a.groups : histogram;
      share_of_bit<T>(a, n, g, i % bits, &yes[i / bits][i % bits], &no[i / bits][i % bits]);
    }
    __syncthreads();
    if (t / kOwnCodes < count) {
      const int64_t upper = int64_t{blockIdx.y} * kOwnCodes + t % kOwnCodes;
      float product = 1.0f;
      for (int j = kLowBits; j < bits; ++j) {
        product *= upper >> (j - kLowBits) & 1 ? yes[t / kOwnCodes][j] : no[t / kOwnCodes][j];
      }
      high[t / kOwnCodes][t % kOwnCodes] = product;
    }
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      float product = 1.0f;
      for (int j = 0; j < low_bits; ++j) product *= t >> j & 1 ? yes[i][j] : no[i][j];
#pragma unroll
      for (int c = 0; c < kOwnCodes; ++c) sum[c] = fmaf(product, high[i][c], sum[c]);
    }
  }
  const int64_t codes = int64_t{1} << bits;
  float* out = parts + (histogram * gridDim.x + blockIdx.x) * codes;
#pragma unroll
  for (int c = 0; c < kOwnCodes; ++c) {
    const int64_t code = (int64_t{blockIdx.y} * kOwnCodes + c) * kHistogramThreads + t;
    if (code < codes) out[code] = sum[c];
  }
}

}  // namespace tk::quantize::gpu
