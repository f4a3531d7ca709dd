// SPDX-License-Identifier: Apache-2.0
// Lengths of tokens, their prefix sums, and one thread a token that copies its bytes.
#pragma once
#include "bpe/decode_batch.h"
#include "core/gpu.cuh"
#include "core/prefix_sum.cuh"

namespace tk::bpe::gpu {

constexpr int kDecodeThreads = 256;

struct Bytes {
  int32_t begin, size;
};

template <class Id>
__device__ __forceinline__ Bytes bytes_of(const DeviceVocab& v, const void* ids, int64_t i) {
  const int32_t token = look_up_id(v, static_cast<const Id*>(ids)[i]);
  if (token < 0) return {0, 0};
  const int32_t begin = v.offsets[token];
  return {begin, v.offsets[token + 1] - begin};
}

template <class Id>
struct LengthSource {
  DecodePlacesArgs a;
  __device__ unsigned long long operator()(int64_t i) const {
    return static_cast<unsigned long long>(bytes_of<Id>(a.vocab, a.ids, i).size);
  }
};
struct PlaceSink {
  DecodePlacesArgs a;
  __device__ void operator()(int64_t i, unsigned long long before) const { a.places[i] = static_cast<int64_t>(before); }
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads) decode_starts_kernel(DecodePlacesArgs a, const unsigned long long* total) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b > a.batch) return;
  const int64_t first = a.offsets[b];
  a.starts[b] = first < a.tokens ? a.places[first] : static_cast<int64_t>(*total);
}

template <class Id>
__global__ void __launch_bounds__(kDecodeThreads) copy_bytes_kernel(DecodeBatchArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kDecodeThreads + threadIdx.x;
  if (i >= a.tokens) return;
  const Bytes from = bytes_of<Id>(a.vocab, a.ids, i);
  const int64_t to = a.places[i];
  for (int32_t k = 0; k < from.size && to + k < a.size; ++k) a.bytes[to + k] = a.vocab.bytes[from.begin + k];
}

}  // namespace tk::bpe::gpu
