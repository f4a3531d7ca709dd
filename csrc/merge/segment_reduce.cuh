// SPDX-License-Identifier: Apache-2.0
// One warp reduces one segment over a tile of 32 P channels, in registers. Blocks of long segments come first, by a
// kernel of their own that leaves partial rows in slots (see kSlotStep).
#pragma once
#include "core/gpu.cuh"
#include "merge/segment_members.cuh"
#include "merge/segment_reduce.h"

namespace tk::merge::gpu {

constexpr int kReduceWarps = 8;
constexpr int kAhead = 4;  // rows whose loads are in flight together

template <class T>
struct ReduceRows {
  const T* x;
  Members members;
  const float* weight;  // or null
  T* out;
  float* mass;     // or null
  float* partial;  // (batch, slots, width)
  bool mean;
  int64_t batch, tokens, segments, width, slots, batch_stride, row_stride;
};

template <bool kMax>
__device__ inline float reduce_start() {
  return kMax ? -kInfinity : -0.0f;  // adding to -0 keeps the sign of a lone -0
}

template <bool kMax>
__device__ inline float reduce_step(float a, float x, float w) {
  if (kMax) return x > a || x != x ? x : a;
  return fmaf(w, x, a);
}

// Adds up the members [begin, end) of a row, in order.
template <bool kMax, class T, int P>
__device__ inline void reduce_members(const ReduceRows<T>& a, int64_t b, int64_t begin, int64_t end, int64_t c,
                                      float (&sum)[P]) {
  const T* x = a.x + b * a.batch_stride + c;
  for (int64_t i = begin; i < end; i += kAhead) {
    Channels<T, P> row[kAhead];
    float w[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= end) break;
      const int64_t token = a.members.token(b, i + k);
      row[k] = *reinterpret_cast<const Channels<T, P>*>(x + token * a.row_stride);
      w[k] = a.weight ? a.weight[b * a.tokens + token] : 1.0f;
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= end) break;
#pragma unroll
      for (int p = 0; p < P; ++p) sum[p] = reduce_step<kMax>(sum[p], to_float(row[k].item[p]), w[k]);
    }
  }
}

// Slot j of a batch row belongs to the segment at one position, if that is long enough to own it.
template <bool kMax, class T, int P>
__global__ void __launch_bounds__(kReduceWarps * 32) segment_blocks_kernel(ReduceRows<T> a) {
  const int lane = threadIdx.x % 32;
  const int64_t tiles = (a.width + 32 * P - 1) / (32 * P);
  const int64_t warp = (int64_t{blockIdx.x} * (kReduceWarps * 32) + threadIdx.x) / 32;
  const int64_t b = warp / tiles / a.slots;
  const int64_t j = warp / tiles % a.slots;
  if (b >= a.batch) return;
  const int64_t* offsets = a.members.offsets_of(b);
  const int64_t s = warp_segment_at(offsets, a.segments, (j + 1) * kSlotStep - 1);
  if (s == a.segments || offsets[s + 1] - offsets[s] <= kSegmentBlock) return;
  const int64_t begin = offsets[s] + (j - offsets[s] / kSlotStep) * kSegmentBlock;
  const int64_t end = offsets[s + 1] < begin + kSegmentBlock ? offsets[s + 1] : begin + kSegmentBlock;
  const int64_t c = warp % tiles * (32 * P) + lane * P;
  if (begin >= end || c >= a.width) return;
  float sum[P];
#pragma unroll
  for (int p = 0; p < P; ++p) sum[p] = reduce_start<kMax>();
  reduce_members<kMax, T, P>(a, b, begin, end, c, sum);
#pragma unroll
  for (int p = 0; p < P; ++p) a.partial[(b * a.slots + j) * a.width + c + p] = sum[p];
}

// The sum of weights of a segment, the same in every lane.
template <class T>
__device__ inline float warp_mass(const ReduceRows<T>& a, int64_t b, int64_t begin, int64_t end) {
  if (!a.weight) return static_cast<float>(end - begin);
  double mass = 0;
  for (int64_t i = begin + threadIdx.x % 32; i < end; i += 32) {
    mass += a.weight[b * a.tokens + a.members.token(b, i)];
  }
  for (int half = 16; half > 0; half /= 2) mass += __shfl_xor_sync(kAllLanes, mass, half);
  return static_cast<float>(mass);
}

template <bool kMax, class T, int P>
__device__ inline void add_slots(const ReduceRows<T>& a, int64_t b, int64_t begin, int64_t end, int64_t c,
                                 float (&sum)[P]) {
  const int64_t count = (end - begin + kSegmentBlock - 1) / kSegmentBlock;
  const float* slot = a.partial + (b * a.slots + begin / kSlotStep) * a.width + c;
  for (int64_t i = 0; i < count; ++i) {
#pragma unroll
    for (int p = 0; p < P; ++p) sum[p] = reduce_step<kMax>(sum[p], slot[i * a.width + p], 1.0f);
  }
}

template <bool kMax, class T, int P>
__global__ void __launch_bounds__(kReduceWarps * 32) segment_rows_kernel(ReduceRows<T> a) {
  const int lane = threadIdx.x % 32;
  const int64_t tiles = a.width ? (a.width + 32 * P - 1) / (32 * P) : 1;
  const int64_t warp = (int64_t{blockIdx.x} * (kReduceWarps * 32) + threadIdx.x) / 32;
  const int64_t row = warp / tiles;
  if (row >= a.batch * a.segments) return;
  const int64_t b = row / a.segments;
  const int64_t* offsets = a.members.offsets_of(b) + row % a.segments;
  const int64_t begin = offsets[0];
  const int64_t end = offsets[1];
  const float mass = a.mean || a.mass ? warp_mass(a, b, begin, end) : 1.0f;
  if (a.mass && lane == 0 && warp % tiles == 0) a.mass[row] = mass;
  const int64_t c = warp % tiles * (32 * P) + lane * P;
  if (c >= a.width) return;
  const float divisor = a.mean ? mass : 1.0f;
  const bool nothing = begin >= end || divisor == 0.0f;
  float sum[P];
#pragma unroll
  for (int p = 0; p < P; ++p) sum[p] = reduce_start<kMax>();
  if (!nothing && end - begin <= kSegmentBlock) reduce_members<kMax, T, P>(a, b, begin, end, c, sum);
  if (!nothing && end - begin > kSegmentBlock) add_slots<kMax, T, P>(a, b, begin, end, c, sum);
  Channels<T, P> rounded;
#pragma unroll
  for (int p = 0; p < P; ++p) rounded.item[p] = from_float<T>(nothing ? 0.0f : sum[p] / divisor);
  *reinterpret_cast<Channels<T, P>*>(a.out + row * a.width + c) = rounded;
}

}  // namespace tk::merge::gpu
