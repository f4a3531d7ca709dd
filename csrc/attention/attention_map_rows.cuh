// SPDX-License-Identifier: Apache-2.0
// attention_rows on the device. A warp takes 32 keys of one row of the map, four at a time, eight lanes a key: few rows
// are asked for, so the keys are what is read. Keys that nobody sees are not read.
#pragma once
#include "attention/attention_rows.h"
#include "attention/tile_rows.cuh"

namespace tk::attention::gpu {

constexpr int kMapRowThreads = 128;

struct MapRowTask {
  int64_t b, h, i, first;  // the query, and the first of 32 keys
};

__device__ __forceinline__ bool sees(const AttentionRowsArgs& a, const MapRowTask& task, int64_t key) {
  if (key >= a.shape.extents.keys || task.i < 0 || task.i >= a.shape.extents.queries) return false;
  bool allowed = false;
  TK_POLICY_SWITCH(a.policy.kind, P, allowed = P(a.policy, a.shape.extents, task.b, task.h).allowed(task.i, key))
  return allowed;
}

// This lane's share of <q, k>: chunks lane % 8, + 8, ...
template <class T>
__device__ __forceinline__ float chunk_products(const T* q, const RowSource<T>& k, int64_t key) {
  constexpr int kItems = ChunkOf<T>::kItems;
  const T* row = k.data + key * k.stride;
  float sum = 0.0f;
  for (int c = threadIdx.x % 8 * kItems; c < k.width; c += 8 * kItems) {
    if (k.wide) {
      const ChunkOf<T> x = *reinterpret_cast<const ChunkOf<T>*>(q + c);
      const ChunkOf<T> y = *reinterpret_cast<const ChunkOf<T>*>(row + c);
#pragma unroll
      for (int e = 0; e < kItems; ++e) sum = fmaf(to_float(x.item[e]), to_float(y.item[e]), sum);
    } else {
      for (int e = c; e < c + kItems && e < k.width; ++e) sum = fmaf(to_float(q[e]), to_float(row[e]), sum);
    }
  }
  return sum;
}

// <q, k> of key first + lane, for the keys whose bit is set.
template <class T>
__device__ __forceinline__ float key_products(const T* q, const RowSource<T>& k, int64_t first, unsigned seen) {
  const int lane = threadIdx.x % 32;
  float mine = 0.0f;
  for (int step = 0; step < 8; ++step) {
    if ((seen >> (4 * step) & 15u) == 0) continue;  // the same for all lanes
    const int at = 4 * step + lane / 8;
    float sum = seen >> at & 1u ? chunk_products(q, k, first + at) : 0.0f;
    for (int d = 1; d < 8; d *= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
    const float of_key = __shfl_sync(kAllLanes, sum, lane % 4 * 8);
    if (lane / 4 == step) mine = of_key;
  }
  return mine;
}

template <class T>
__global__ void __launch_bounds__(kMapRowThreads) attention_rows_kernel(AttentionRowsArgs a, int64_t warps, bool wide) {
  const int lane = threadIdx.x % 32;
  const int64_t keys = a.shape.extents.keys;
  const int64_t pieces = (keys + 31) / 32;
  const int64_t warp = (int64_t{blockIdx.x} * kMapRowThreads + threadIdx.x) / 32;
  if (warp >= warps) return;
  const int64_t row = warp / pieces;  // of the answer
  const int64_t head = row / a.picks;
  MapRowTask task;
  task.b = head / a.shape.heads;
  task.h = head % a.shape.heads;
  task.i = a.rows[task.b * a.rows_batch_stride + row % a.picks];
  task.first = warp % pieces * 32;
  const int64_t key = task.first + lane;
  const float* bias = a.key_bias.data;
  if (bias) bias += task.b * a.key_bias.batch_stride + task.h * a.key_bias.head_stride;
  bool seen = sees(a, task, key);
  const float added = bias && seen ? bias[key] : 0.0f;
  const float lse = seen ? static_cast<const float*>(a.lse)[head * a.shape.extents.queries + task.i] : 0.0f;
  seen = seen && added != -kInfinity && lse != -kInfinity;
  const unsigned some = __ballot_sync(kAllLanes, seen);
  float entry = 0.0f;
  if (some) {
    const int64_t group = task.h / (a.shape.heads / a.shape.groups);
    const RowSource<T> q = row_source<T>(a.q, task.b, task.h, a.shape.width, wide);
    const RowSource<T> k = row_source<T>(a.k, task.b, group, a.shape.width, wide);
    const float product = key_products(q.data + task.i * q.stride, k, task.first, some);
    if (seen) entry = expf(fmaf(product, static_cast<float>(a.scale), added) - lse);
  }
  if (key < keys) a.out[row * keys + key] = entry;
}

}  // namespace tk::attention::gpu
