// SPDX-License-Identifier: Apache-2.0
// A block scans a chunk of rows for one query: sums better than the worst of its best so far are collected behind
// those, and sorted in when there are many. A second kernel merges the lists of the chunks of a query.
#pragma once
#include "core/sort_pairs.cuh"
#include "quantize/adc_scan.h"

namespace tk::quantize::gpu {

constexpr int kScanThreads = 256;
constexpr uint64_t kNoKey = ~uint64_t{0};

struct ScanShape {
  int64_t chunks, rows;  // of a query, of a chunk
  int64_t keys;          // room of a list: a power of two, at least k + kScanThreads
  bool spills;           // the keys lie in global memory
  bool cached;           // tables are copied to shared memory
};

// The best keys of one block: [0, k) sorted, and behind them what was collected since.
struct KeyList {
  uint64_t* keys;
  int64_t k, room;
  int* waiting;     // both in shared memory
  uint64_t* limit;  // keys below it may be among the best

  __device__ __forceinline__ void clear() const {
    for (int64_t i = threadIdx.x; i < k; i += blockDim.x) keys[i] = kNoKey;
    if (threadIdx.x == 0) {
      *waiting = 0;
      *limit = kNoKey;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void sort_in(int count) const {
    for (int64_t i = k + count + threadIdx.x; i < room; i += blockDim.x) keys[i] = kNoKey;
    __syncthreads();
    sort_pairs(keys, room);
    if (threadIdx.x == 0) {
      *waiting = 0;
      *limit = keys[k - 1];
    }
    __syncthreads();
  }

  // Every thread of the block brings a key, or kNoKey.
  __device__ __forceinline__ void take(uint64_t key) const {
    if (key < *limit) keys[k + atomicAdd(waiting, 1)] = key;
    __syncthreads();
    const int count = *waiting;
    __syncthreads();
    if (k + count + blockDim.x > room) sort_in(count);
  }

  __device__ __forceinline__ void finish() const { sort_in(*waiting); }
};

template <class C>
__device__ __forceinline__ float table_sum(const AdcScanArgs& a, const float* tables, int64_t row) {
  const C* codes = row_codes<C>(a.codes, row);
  float sum = 0;
  for (int64_t m = 0; m < a.codes.parts; ++m) {
    const auto code = static_cast<int64_t>(codes[m]);
    const bool known = code >= 0 && code < a.codes_count;
    sum += known ? tables[m * a.codes_count + code] : kInfinity - kInfinity;
  }
  return sum;
}

template <class C>
__global__ void __launch_bounds__(kScanThreads)
    adc_scan_kernel(AdcScanArgs a, ScanShape s, uint64_t* lists, uint64_t* spill) {
  TK_DYNAMIC_SHARED(uint64_t, shared);
  TK_SHARED(waiting, int[1]);
  TK_SHARED(limit, uint64_t[1]);
  const int64_t list = blockIdx.x;
  const int64_t cells = a.codes.parts * a.codes_count;
  const float* tables = a.tables + list / s.chunks * cells;
  if (s.cached) {
    auto* near = reinterpret_cast<float*>(shared + (s.spills ? 0 : s.keys));
    for (int64_t i = threadIdx.x; i < cells; i += blockDim.x) near[i] = tables[i];
    tables = near;
  }
  const KeyList best{s.spills ? spill + list * s.keys : shared, a.k, s.keys, waiting, limit};
  best.clear();
  const int64_t begin = list % s.chunks * s.rows;
  const int64_t end = begin + s.rows < a.codes.rows ? begin + s.rows : a.codes.rows;
  for (int64_t first = begin; first < end; first += blockDim.x) {
    const int64_t row = first + threadIdx.x;
    best.take(row < end ? scan_key(table_sum<C>(a, tables, row), row, a.largest) : kNoKey);
  }
  best.finish();
  for (int64_t i = threadIdx.x; i < a.k; i += blockDim.x) lists[list * a.k + i] = best.keys[i];
}

template <class C>
__global__ void __launch_bounds__(kScanThreads)
    adc_merge_kernel(AdcScanArgs a, ScanShape s, const uint64_t* lists, uint64_t* spill) {
  TK_DYNAMIC_SHARED(uint64_t, shared);
  TK_SHARED(waiting, int[1]);
  TK_SHARED(limit, uint64_t[1]);
  const int64_t query = blockIdx.x;
  const int64_t total = s.chunks * a.k;
  const KeyList best{s.spills ? spill + query * s.keys : shared, a.k, s.keys, waiting, limit};
  best.clear();
  for (int64_t first = 0; first < total; first += blockDim.x) {
    const int64_t i = first + threadIdx.x;
    best.take(i < total ? lists[query * total + i] : kNoKey);
  }
  best.finish();
  const float* tables = a.tables + query * a.codes.parts * a.codes_count;
  for (int64_t i = threadIdx.x; i < a.k; i += blockDim.x) {
    const int64_t row = key_row(best.keys[i]);
    a.index[query * a.k + i] = row;
    a.value[query * a.k + i] = table_sum<C>(a, tables, row);
  }
}

}  // namespace tk::quantize::gpu
