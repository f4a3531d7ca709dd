// SPDX-License-Identifier: Apache-2.0
// attention of float16 and bfloat16 on tensor cores: scores stay in registers, are rounded to the dtype as weights, and
// are the left side of the product with the values.
#pragma once
#include "attention/attention_rows.cuh"
#include "attention/products_mma.cuh"

namespace tk::attention::gpu {

template <class Tile>
struct MmaRows {
  using T = typename Tile::Item;
  static constexpr int kKeys = Tile::kKeys;
  static constexpr int kGroups = kKeys / 8;
  static constexpr int kWidth = Tile::kWidth;
  float out[kWidth / 8][4];
  float weight[kGroups][4];
  SoftRow row[2];
  const T* q;
  float scale;
  int chunks;
  bool biased, idle;  // idle: the warp's rows lie behind the tile

  __device__ __forceinline__ static const T* watched(const T*, const T* values) { return values; }

  __device__ __forceinline__ void start(const AttentionArgs& a, const QueryTask& task, const T* queries) {
    clear(out);
    row[0] = row[1] = {-kInfinity, 0.0f};
    q = queries;
    scale = static_cast<float>(a.scale);
    chunks = static_cast<int>(divided_up(a.shape.width, 16) * 2);
    biased = a.key_bias.data != nullptr;
    idle = task.tile.begin + threadIdx.x / 32 * 16 >= task.tile.end;
  }

  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }

  __device__ __forceinline__ void scores(const T* keys, const T*, const KeyList<kKeys>& list, uint64_t seen,
                                         bool plain) {
    if (nothing_seen(seen)) return;
    multiply_rows<T, kWidth>(q, keys, chunks, weight);
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        weight[n][e] = biased ? fmaf(weight[n][e], scale, list.bias[n * 8 + column + e % 2]) : weight[n][e] * scale;
      }
    }
    if (!plain) hide(seen);
    soften();
  }

  __device__ __forceinline__ void hide(uint64_t seen) {
    const int lane = threadIdx.x % 32;
    const uint64_t of_row[2] = {bits_of_lane(seen, lane / 4), bits_of_lane(seen, lane / 4 + 8)};
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (!(of_row[e / 2] >> (n * 8 + lane % 4 * 2 + e % 2) & 1)) weight[n][e] = -kInfinity;
      }
    }
  }

  // From scores to weights.
  __device__ __forceinline__ void soften() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = -kInfinity;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) most = fmaxf(most, fmaxf(weight[n][2 * r], weight[n][2 * r + 1]));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      const float largest = fmaxf(row[r].largest, most * kLog2E);
      const float base = base_of(largest);
      const float kept = exp2f(row[r].largest - base);
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          weight[n][e] = exp2f(fmaf(weight[n][e], kLog2E, -base));
          sum += weight[n][e];
        }
      }
      row[r] = {largest, row[r].sum * kept + sum};
#pragma unroll
      for (int c = 0; c < kWidth / 8; ++c) {
        out[c][2 * r] *= kept;
        out[c][2 * r + 1] *= kept;
      }
    }
  }

  __device__ __forceinline__ void add(const T*, T* values, const KeyList<kKeys>& list, uint64_t seen) {
    const bool idle_now = nothing_seen(seen);
    const uint64_t strange = list.partial ? joined(list.strange) : 0;
    if (strange != 0) {
      if (!idle_now) add_strange(values, strange, seen);
      __syncthreads();
      clear_rows<T, kKeys, kWidth, Tile::kThreads>(values, strange);
      __syncthreads();
    }
    if (!idle_now) multiply_columns<T, kWidth>(weight, values, 0, chunks, out);
  }

  __device__ __forceinline__ void add_strange(const T* values, uint64_t strange, uint64_t seen) {
    const int lane = threadIdx.x % 32;
    const uint64_t of_row[2] = {bits_of_lane(seen, lane / 4), bits_of_lane(seen, lane / 4 + 8)};
    for (int j = 0; j < kKeys; ++j) {
      if (!(strange >> j & 1)) continue;
      const bool shown[2] = {(of_row[0] >> j & 1) != 0, (of_row[1] >> j & 1) != 0};
      add_seen_row<T, kWidth>(weight, values, j, shown, 0, chunks, out);
    }
  }

  __device__ __forceinline__ void write(const AttentionArgs& a, const QueryTask& task, bool pairs) const {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      SoftRow whole = row[r];
      whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, 1);
      whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, 2);
      const RowAnswer answer = finished(whole, static_cast<float>(a.extra));
      const int64_t i = task.tile.begin + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r;
      if (i >= task.tile.end) continue;
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + i;
      if (a.lse && threadIdx.x % 4 == 0) static_cast<float*>(a.lse)[at] = answer.lse;
      write_row(out, r, answer.factor, static_cast<T*>(a.out) + at * width, 0, width, pairs);
    }
  }
};

// Two blocks at least: left to itself, the compiler would rather spill than keep fewer than three.
template <class T, int kWidth>
__global__ void __launch_bounds__(128, 2) attention_mma_kernel(AttentionArgs a, int64_t slots, bool wide) {
  using Tile = ForwardTile<T, kWidth>;
  TK_SHARED(lists, KeyList<Tile::kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_SHARED(task, QueryTask);
  TK_DYNAMIC_SHARED(T, queries);
  if (threadIdx.x == 0) task = query_task(a.policy, a.shape, slots, Tile::kRows);
  __syncthreads();
  if (task.tile.begin >= task.tile.end) return;
  const RowSource<T> q = row_source<T>(a.q, task.b, task.h, a.shape.width, wide);
  load_rows<T, Tile::kRows, kWidth, Tile::kThreads>(queries, q, task.tile);
  MmaRows<Tile> rows;
  rows.start(a, task, queries);
  T* steps = queries + Tile::kRows * kWidth;
  attend<Tile>(a.policy, a.shape, KeySource{a.k, a.v, a.key_bias}, task, wide, steps, lists, walk, rows);
  rows.write(a, task, wide);
}

}  // namespace tk::attention::gpu
