// SPDX-License-Identifier: Apache-2.0
// Sums of columns on the tiles and steps of the forward pass. A block takes one chunk of the tiles of a head, one after
// the other, and adds them to sums of its own; chunks are as many as the extents say, and are added in order.
#pragma once
#include "attention/attention_column_sums.h"
#include "attention/attention_fma.cuh"
#include "attention/attention_mma.cuh"

namespace tk::attention::gpu {

constexpr int64_t kSumBlocks = 264;  // two a multiprocessor of an H100
constexpr int kSumWarps = kTileThreads / 32;

// What the forward loop does not know of.
struct ColumnTarget {
  const float* lse;
  const float* weight;
  int64_t weight_batch_stride;
  float* sums;  // (B * H, chunks, Nk)
  int64_t slots, chunks;
};

// A row of the map: what its entries are relative to, and worth. Weight 0: the row is left out.
struct CountedRow {
  float lse, weight;
};

__device__ __forceinline__ CountedRow counted_row(const AttentionArgs& a, const ColumnTarget& t, const QueryTask& task,
                                                  int64_t i) {
  if (i >= task.tile.end) return {0.0f, 0.0f};
  const float lse = t.lse[(task.b * a.shape.heads + task.h) * a.shape.extents.queries + i];
  const float weight = t.weight ? t.weight[task.b * t.weight_batch_stride + i] : 1.0f;
  return {lse, lse == -kInfinity ? 0.0f : weight};
}

__device__ __forceinline__ float counted(const CountedRow& row, float score, bool seen) {
  return seen && row.weight != 0.0f ? row.weight * exp2f((score - row.lse) * kLog2E) : 0.0f;
}

// What both kinds of products share: sums of each warp meet in shared memory, and go on to the keys of the step.
template <int kKeys>
struct ColumnSums {
  float (*parts)[kKeys];  // shared, one row a warp
  float* sums;
  float scale;
  int chunks;
  bool biased, idle;

  __device__ __forceinline__ void begin(const AttentionArgs& a, const QueryTask& task) {
    scale = static_cast<float>(a.scale);
    biased = a.key_bias.data != nullptr;
    idle = task.tile.begin + threadIdx.x / 32 * 16 >= task.tile.end;
  }
  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }
  __device__ __forceinline__ void clear() const {
    for (int j = threadIdx.x % 32; j < kKeys; j += 32) parts[threadIdx.x / 32][j] = 0.0f;
  }
  __device__ __forceinline__ void add(const void*, const void*, const KeyList<kKeys>& list, uint64_t) const {
    __syncthreads();
    if (threadIdx.x >= kKeys || list.key[threadIdx.x] < 0) return;
    float sum = parts[0][threadIdx.x];
#pragma unroll
    for (int w = 1; w < kSumWarps; ++w) sum += parts[w][threadIdx.x];
    sums[list.key[threadIdx.x]] += sum;
  }
};

// Lanes hold scores as in attention_fma.cuh.
template <int kWidth>
struct FmaSums : ColumnSums<ForwardTile<float, kWidth>::kKeys> {
  static constexpr int kKeys = ForwardTile<float, kWidth>::kKeys;
  static constexpr int kColumns = kKeys / 8;
  CountedRow row[4];
  const float* q;

  __device__ __forceinline__ static const float* watched(const float* keys, const float*) { return keys; }

  __device__ __forceinline__ void start(const AttentionArgs& a, const ColumnTarget& t, const QueryTask& task,
                                        const float* queries) {
    this->begin(a, task);
    q = queries;
    this->chunks = static_cast<int>(divided_up(a.shape.width, 16) * 4);
    const int64_t first = task.tile.begin + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) row[i] = counted_row(a, t, task, first + 4 * i);
  }

  __device__ __forceinline__ void scores(const float* k, const float*, const KeyList<kKeys>& list, uint64_t seen,
                                         bool plain) {
    if (this->nothing_seen(seen)) return this->clear();
    float score[4][kColumns];
    multiply_rows<kWidth, kColumns>(q, k, this->chunks, score);
    const int lane = threadIdx.x % 32;
    float sum[kColumns] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint64_t bits = plain ? ~uint64_t{0} : bits_of_lane(seen, lane / 8 + 4 * i);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int key = lane % 8 + 8 * j;
        const float s = this->biased ? fmaf(score[i][j], this->scale, list.bias[key]) : score[i][j] * this->scale;
        sum[j] += counted(row[i], s, bits >> key & 1);
      }
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      sum[j] += __shfl_xor_sync(kAllLanes, sum[j], 8);
      sum[j] += __shfl_xor_sync(kAllLanes, sum[j], 16);
      if (lane < 8) this->parts[threadIdx.x / 32][lane + 8 * j] = sum[j];
    }
  }
};

// Lanes hold scores as in attention_mma.cuh.
template <class T, int kWidth>
struct MmaSums : ColumnSums<ForwardTile<T, kWidth>::kKeys> {
  static constexpr int kKeys = ForwardTile<T, kWidth>::kKeys;
  static constexpr int kGroups = kKeys / 8;
  CountedRow row[2];
  const T* q;

  __device__ __forceinline__ static const T* watched(const T* keys, const T*) { return keys; }

  __device__ __forceinline__ void start(const AttentionArgs& a, const ColumnTarget& t, const QueryTask& task,
                                        const T* queries) {
    this->begin(a, task);
    q = queries;
    this->chunks = static_cast<int>(divided_up(a.shape.width, 16) * 2);
    const int64_t first = task.tile.begin + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    row[0] = counted_row(a, t, task, first);
    row[1] = counted_row(a, t, task, first + 8);
  }

  __device__ __forceinline__ void scores(const T* k, const T*, const KeyList<kKeys>& list, uint64_t seen, bool plain) {
    if (this->nothing_seen(seen)) return this->clear();
    float score[kGroups][4];
    multiply_rows<T, kWidth>(q, k, this->chunks, score);
    const int lane = threadIdx.x % 32;
    uint64_t bits[2] = {~uint64_t{0}, ~uint64_t{0}};
    if (!plain) {
      bits[0] = bits_of_lane(seen, lane / 4);
      bits[1] = bits_of_lane(seen, lane / 4 + 8);
    }
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = n * 8 + lane % 4 * 2 + e;
        const float bias = this->biased ? list.bias[key] : 0.0f;
        float sum = counted(row[0], fmaf(score[n][e], this->scale, bias), bits[0] >> key & 1) +
                    counted(row[1], fmaf(score[n][e + 2], this->scale, bias), bits[1] >> key & 1);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
        if (lane < 4) this->parts[threadIdx.x / 32][key] = sum;
      }
    }
  }
};

// Sums of one chunk of the tiles of a head.
template <class Rows, class T, int kWidth>
__device__ __forceinline__ void sum_chunk(const AttentionArgs& a, const ColumnTarget& t, bool wide, T* shared,
                                          KeyList<Rows::kKeys>* lists, KeyWalk& walk, float (*parts)[Rows::kKeys]) {
  const int64_t keys = a.shape.extents.keys;
  float* sums = t.sums + blockIdx.x * keys;
  for (int64_t j = threadIdx.x; j < keys; j += kTileThreads) sums[j] = 0.0f;
  const int64_t head = blockIdx.x / t.chunks;
  const int64_t chunk = blockIdx.x % t.chunks;
  for (int64_t slot = t.slots * chunk / t.chunks; slot < t.slots * (chunk + 1) / t.chunks; ++slot) {
    const QueryTask task = task_at(a.policy, a.shape, head, slot, kTileRows);
    if (task.tile.begin >= task.tile.end) continue;
    __syncthreads();
    Rows rows;
    rows.parts = parts;
    rows.sums = sums;
    rows.start(a, t, task, shared);
    const RowSource<T> q = row_source<T>(a.q, task.b, task.h, a.shape.width, wide);
    load_rows<T, kTileRows, kWidth, kTileThreads>(shared, q, task.tile);
    attend<ForwardTile<T, kWidth>>(a.policy, a.shape, KeySource{a.k, a.v, a.key_bias}, task, wide,
                                   shared + kTileRows * kWidth, lists, walk, rows);
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kTileThreads)
    attention_column_sums_fma_kernel(AttentionArgs a, ColumnTarget t, bool wide) {
  constexpr int kKeys = ForwardTile<float, kWidth>::kKeys;
  TK_SHARED(lists, KeyList<kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_SHARED(parts, float[kSumWarps][kKeys]);
  TK_DYNAMIC_SHARED(float, shared);
  sum_chunk<FmaSums<kWidth>, float, kWidth>(a, t, wide, shared, lists, walk, parts);
}

// Two blocks a multiprocessor: with more in mind, ptxas keeps some registers of the widest heads in memory.
template <class T, int kWidth>
__global__ void __launch_bounds__(kTileThreads, 2)
    attention_column_sums_mma_kernel(AttentionArgs a, ColumnTarget t, bool wide) {
  constexpr int kKeys = ForwardTile<T, kWidth>::kKeys;
  TK_SHARED(lists, KeyList<kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_SHARED(parts, float[kSumWarps][kKeys]);
  TK_DYNAMIC_SHARED(T, shared);
  sum_chunk<MmaSums<T, kWidth>, T, kWidth>(a, t, wide, shared, lists, walk, parts);
}

}  // namespace tk::attention::gpu
