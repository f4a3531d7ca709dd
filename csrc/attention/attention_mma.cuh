// SPDX-License-Identifier: Apache-2.0
// attention of float16 and bfloat16 on tensor cores: scores stay in registers, are rounded to the dtype as weights, and
// are the left side of the product with the values.
#pragma once
#include "attention/attention_rows.cuh"
#include "attention/products_mma.cuh"

namespace tk::attention::gpu {

struct alignas(8) Pair32 {
  float x, y;
};

template <class Tile>
struct MmaRows {
  using T = typename Tile::Item;
  using Share = WarpShare<Tile>;
  static constexpr int kKeys = Share::kKeys;
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

  // `rows`: of the tile.
  __device__ __forceinline__ void start(const T* queries, int64_t rows, double factor, int64_t width, bool has_bias) {
    clear(out);
    row[0] = row[1] = {-kInfinity, 0.0f};
    q = queries;
    scale = static_cast<float>(factor);
    chunks = static_cast<int>(divided_up(width, 16) * 2);
    biased = has_bias;
    idle = Share::row_begin() >= rows;
  }

  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }

  template <class List>
  __device__ __forceinline__ void scores(const T* keys, const T*, const List& list, uint64_t seen_in_step, bool plain) {
    const uint64_t seen = Share::bits(seen_in_step);
    if (nothing_seen(seen)) return;
    multiply_rows<T, kWidth>(q, keys + Share::key_begin() * kWidth, chunks, weight, Share::row_begin());
    bool scaled = false;
    if constexpr (List::kMayBias) {
      scaled = biased;
      if (biased) scale_with_bias(list);
    }
    if (!scaled) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) weight[n][e] *= scale;
      }
    }
    if (!plain) hide(seen);
    soften();
  }

  template <class List>
  __device__ __forceinline__ void scale_with_bias(const List& list) {
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) weight[n][e] = fmaf(weight[n][e], scale, list.bias[n * 8 + column + e % 2]);
    }
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
          weight[n][e] = exp2_flushed(fmaf(weight[n][e], kLog2E, -base));
          sum += weight[n][e];
        }
      }
      row[r] = {largest, row[r].sum * kept + sum};
      if (!__any_sync(kAllLanes, kept != 1.0f)) continue;  // as in most steps but the first
#pragma unroll
      for (int c = 0; c < kWidth / 8; ++c) {
        out[c][2 * r] *= kept;
        out[c][2 * r + 1] *= kept;
      }
    }
  }

  template <class List>
  __device__ __forceinline__ void add(const T*, T* values, const List& list, uint64_t seen_in_step) {
    const uint64_t seen = Share::bits(seen_in_step);
    const bool idle_now = nothing_seen(seen);
    const T* own = values + Share::key_begin() * kWidth;
    const uint64_t strange = list.partial ? joined(list.strange) : 0;
    if (strange != 0) {
      if (!idle_now) add_strange(own, Share::bits(strange), seen);
      __syncthreads();
      clear_rows<T, Tile::kKeys, kWidth, Tile::kThreads>(values, strange);
      __syncthreads();
    }
    if (!idle_now) multiply_columns<T, kWidth>(weight, own, 0, chunks, out);
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

  // Row r of the lane's two, summed over the lanes that share it.
  __device__ __forceinline__ SoftRow whole_row(int r) const {
    SoftRow whole = row[r];
    whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, 1);
    whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, 2);
    return whole;
  }

  // Lays the warp's rows down in shared memory, `pitch` numbers apart.
  __device__ __forceinline__ void lay_down(float* sums, int pitch, SoftRow* rows) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const SoftRow whole = whole_row(r);
      const int at = lane / 4 + 8 * r;
      if (lane % 4 == 0) rows[at] = whole;
#pragma unroll
      for (int c = 0; c < kWidth / 8; ++c) {
        *reinterpret_cast<Pair32*>(sums + at * pitch + c * 8 + lane % 4 * 2) = {out[c][2 * r], out[c][2 * r + 1]};
      }
    }
  }

  __device__ __forceinline__ void write(const AttentionArgs& a, const QueryTask& task, bool pairs) const {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowAnswer answer = finished(whole_row(r), static_cast<float>(a.extra));
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
  rows.start(queries, task.tile.end - task.tile.begin, a.scale, a.shape.width, a.key_bias.data != nullptr);
  T* steps = queries + Tile::kRows * kWidth;
  attend<Tile>(a.policy, a.shape, KeySource{a.k, a.v, a.key_bias}, task, wide, steps, lists, walk, rows);
  rows.write(a, task, wide);
}

}  // namespace tk::attention::gpu
