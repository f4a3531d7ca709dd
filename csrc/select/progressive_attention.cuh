// SPDX-License-Identifier: Apache-2.0
// One block a row. Eight lanes multiply a key; products, and later weights, of a row lie in the workspace.
#pragma once
#include "select/progressive_attention.h"
#include "select/split_bits.cuh"
#include "select/weigh_values.cuh"

namespace tk::selection::gpu {

constexpr int kMostChannels = 256;
constexpr int kKeyLanes = 8;
constexpr int kWarpKeys = 32 / kKeyLanes;

struct HighPlane {
  __device__ __forceinline__ static int product(unsigned byte, const int16_t* n, int64_t i) {
    return static_cast<int8_t>(byte) * n[i];
  }
};

struct LowPlane {
  __device__ __forceinline__ static int product(unsigned byte, const int16_t* n, int64_t i) {
    return static_cast<int>(byte & 15u) * n[2 * i] + static_cast<int>(byte >> 4) * n[2 * i + 1];
  }
};

// Keys of one head in one plane. `words`: rows are whole words, and so are the steps between them.
struct PlaneRows {
  const uint8_t* data;
  int64_t stride, bytes;
  bool words;
};

__device__ __forceinline__ PlaneRows plane_rows(const HeadRows& x, int64_t b, int64_t g, int64_t bytes) {
  const auto* data = head_row<uint8_t>(x, b, g);
  const bool words = (reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(x.row_stride | bytes)) % 4 == 0;
  return {data, x.row_stride, bytes, words};
}

// What one of the lanes of a key adds up.
template <class Plane>
__device__ __forceinline__ int lane_product(const uint8_t* row, const PlaneRows& plane, const int16_t* n, int lane) {
  int sum = 0;
  if (!plane.words) {
    for (int64_t i = lane; i < plane.bytes; i += kKeyLanes) sum += Plane::product(row[i], n, i);
    return sum;
  }
  for (int64_t w = lane; w < plane.bytes / 4; w += kKeyLanes) {
    const uint32_t word = reinterpret_cast<const uint32_t*>(row)[w];
#pragma unroll
    for (int byte = 0; byte < 4; ++byte) sum += Plane::product(word >> (8 * byte) & 255u, n, 4 * w + byte);
  }
  return sum;
}

// to[j] = product * factor, or with Add that much more; for keys before `end`.
template <class Plane, bool Add>
__device__ __forceinline__ void multiply_plane(const PlaneRows& plane, const int16_t* n, int64_t end, float factor,
                                               float* to) {
  const int lane = threadIdx.x % kKeyLanes;
  const int64_t step = blockDim.x / kKeyLanes;
  for (int64_t base = threadIdx.x / 32 * kWarpKeys; base < end; base += step) {
    const int64_t key = base + threadIdx.x % 32 / kKeyLanes;
    int sum = key < end ? lane_product<Plane>(plane.data + key * plane.stride, plane, n, lane) : 0;
    for (int across = kKeyLanes / 2; across > 0; across /= 2) sum += __shfl_xor_sync(kAllLanes, sum, across);
    if (lane == 0 && key < end) to[key] = (Add ? to[key] : 0.0f) + static_cast<float>(sum) * factor;
  }
  __syncthreads();
}

struct RowSoftmax {
  const float* product;
  const float* scale_k;
  const uint8_t* valid;
  float factor;
  int64_t end;
  TK_HOST_DEVICE float logit(int64_t j) const {
    return valid && !valid[j] ? -kInfinity : product[j] * (scale_k[j] * factor);
  }
};

// Largest logit (0 where there is none) and sum of the weights; every thread gets both.
struct RowMass {
  float shift, sum;
};

__device__ __forceinline__ RowMass row_mass(const RowSoftmax& s) {
  float most = -kInfinity;
  for (int64_t j = threadIdx.x; j < s.end; j += blockDim.x) most = fmaxf(most, s.logit(j));
  most = block_combined(most, Larger{});
  const float shift = most > -kInfinity ? most : 0.0f;
  float sum = 0.0f;
  for (int64_t j = threadIdx.x; j < s.end; j += blockDim.x) sum += expf(s.logit(j) - shift);
  return {shift, block_combined(sum, Plus{})};
}

template <class V>
struct SeenValues {
  const float* weights;
  const V* v;
  const uint8_t* valid;
  int64_t stride;
  TK_HOST_DEVICE float weight(int64_t j) const { return weights[j]; }
  TK_HOST_DEVICE float value(int64_t j, int64_t d) const {
    return valid && !valid[j] ? 0.0f : to_float(v[j * stride + d]);
  }
};

template <class T>
struct WriteShare {
  T* out;
  float sum;
  TK_HOST_DEVICE void operator()(int64_t d, float weighed) const {
    out[d] = from_float<T>(sum == 0.0f ? 0.0f : weighed / sum);
  }
};

// V is int8_t or T. products: (B * H * Q, K).
template <class T, class V>
__global__ void __launch_bounds__(kSumThreads)
    progressive_attention_kernel(ProgressiveAttentionArgs a, float* products) {
  TK_SHARED(n, int16_t[kMostChannels]);
  TK_SHARED(query_scale, float);
  const int64_t row = blockIdx.x;
  const int64_t b = row / a.queries / a.heads;
  const int64_t h = row / a.queries % a.heads;
  const int64_t g = h / (a.heads / a.groups);
  const T* q = head_row<T>(a.q, b, h, row % a.queries);
  if (threadIdx.x < 32) {
    const float largest = largest_size(q, a.width);
    if (threadIdx.x == 0) query_scale = scale_of(largest, kMostQuery);
  }
  __syncthreads();
  for (int d = threadIdx.x; d < kMostChannels; d += blockDim.x) {
    n[d] = static_cast<int16_t>(d < a.width ? whole_number(to_float(q[d]), query_scale, kMostQuery) : 0);
  }
  __syncthreads();
  float* product = products + row * a.keys;
  const uint8_t* valid = a.valid ? a.valid + b * a.keys : nullptr;
  const RowSoftmax softmax{product, head_scales(a.scale_k, b, g), valid, query_scale * a.scale,
                           key_end(a, row % a.queries)};
  const PlaneRows high = plane_rows(a.high_k, b, g, a.width);
  multiply_plane<HighPlane, false>(high, n, softmax.end, static_cast<float>(1 << a.low_bits), product);
  RowMass mass = row_mass(softmax);
  const bool fetch = mass.sum > 0.0f && 1.0f / mass.sum < a.threshold;
  if (fetch && a.low_bits > 0) {
    const PlaneRows low = plane_rows(a.low_k, b, g, low_bytes(a.width, a.low_bits));
    multiply_plane<LowPlane, true>(low, n, softmax.end, 1.0f, product);
    mass = row_mass(softmax);
  }
  if (threadIdx.x == 0) a.fetched[row] = fetch;
  const float* scale_v = a.scale_v.data ? head_scales(a.scale_v, b, g) : nullptr;
  for (int64_t j = threadIdx.x; j < softmax.end; j += blockDim.x) {
    product[j] = expf(softmax.logit(j) - mass.shift) * (scale_v ? scale_v[j] : 1.0f);
  }
  __syncthreads();
  const SeenValues<V> values{product, head_row<V>(a.v, b, g), valid, a.v.row_stride};
  weigh_values(values, softmax.end, a.width, WriteShare<T>{static_cast<T*>(a.out) + row * a.width, mass.sum});
}

}  // namespace tk::selection::gpu
