// SPDX-License-Identifier: Apache-2.0
// attention of float32 on the CUDA cores. Weights go through shared memory, from the lanes of one warp to the same
// lanes.
#pragma once
#include "attention/attention_rows.cuh"
#include "attention/products_fma.cuh"

namespace tk::attention::gpu {

template <class Tile>
struct FmaRows {
  using Share = WarpShare<Tile>;
  static constexpr int kKeys = Share::kKeys;
  static constexpr int kRows = Tile::kWarpRows / 4;  // of a lane
  static constexpr int kColumns = kKeys / 8;
  static constexpr int kWidth = Tile::kWidth;
  static constexpr int kQuads = kWidth / 32;
  static constexpr int kPitch = Weights<Tile::kKeys>::kPitch;
  float out[kRows][kQuads][4];
  SoftRow row[kRows];
  const float* q;
  float* weights;  // shared, one row of Weights<Tile::kKeys> a query, from the warp's first key on
  float scale;
  int chunks;
  bool biased, idle;

  __device__ __forceinline__ static const float* watched(const float*, const float* values) { return values; }

  // `rows`: of the tile.
  __device__ __forceinline__ void start(float* shared, int64_t rows, double factor, int64_t width, bool has_bias) {
    clear(out);
#pragma unroll
    for (int i = 0; i < kRows; ++i) row[i] = {-kInfinity, 0.0f};
    q = shared;
    weights = shared + Tile::kRowItems + Share::key_begin();
    scale = static_cast<float>(factor);
    chunks = static_cast<int>(divided_up(width, 16) * 4);
    biased = has_bias;
    idle = Share::row_begin() >= rows;
  }

  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }
  __device__ __forceinline__ uint64_t bits_of(uint64_t seen, int i) const {
    return bits_of_lane(seen, threadIdx.x % 32 / 8 + 4 * i);
  }

  template <class List>
  __device__ __forceinline__ float scaled(float product, const List& list, int key) const {
    if constexpr (List::kMayBias) {
      if (biased) return fmaf(product, scale, list.bias[key]);
    }
    return product * scale;
  }

  template <class List>
  __device__ __forceinline__ void scores(const float* keys, const float*, const List& list, uint64_t seen_in_step,
                                         bool plain) {
    const uint64_t seen = Share::bits(seen_in_step);
    if (nothing_seen(seen)) return;
    float score[kRows][kColumns];
    multiply_rows<kWidth>(q, keys + Share::key_begin() * kWidth, chunks, score, Share::row_begin());
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const uint64_t bits = plain ? ~uint64_t{0} : bits_of(seen, i);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int key = threadIdx.x % 8 + 8 * j;
        const float s = scaled(score[i][j], list, key);
        score[i][j] = bits >> key & 1 ? s : -kInfinity;
      }
      soften(i, score[i]);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void soften(int i, float (&score)[kColumns]) {
    float most = score[0];
#pragma unroll
    for (int j = 1; j < kColumns; ++j) most = fmaxf(most, score[j]);
#pragma unroll
    for (int step = 1; step < 8; step *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
    const float largest = fmaxf(row[i].largest, most * kLog2E);
    const float base = base_of(largest);
    const float kept = exp2f(row[i].largest - base);
    float* to = weights + fma_row(i, Share::row_begin()) * kPitch + threadIdx.x % 8;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float weight = exp2_flushed(fmaf(score[j], kLog2E, -base));
      sum += weight;
      to[8 * j] = weight;
    }
    row[i] = {largest, row[i].sum * kept + sum};
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[i][q][e] *= kept;
    }
  }

  template <class List>
  __device__ __forceinline__ void add(const float*, const float* values, const List& list, uint64_t seen_in_step) {
    const uint64_t seen = Share::bits(seen_in_step);
    if (nothing_seen(seen)) return;
    const float* own = values + Share::key_begin() * kWidth;
    if (!list.partial || joined(list.strange) == 0) {
      multiply_columns<kWidth, kKeys>(weights, own, 0, chunks, out, Share::row_begin(), kPitch);
      return;
    }
    uint64_t bits[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) bits[i] = bits_of(seen, i);
#pragma unroll 1
    for (int j = 0; j < kKeys; ++j) {
      bool shown[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) shown[i] = bits[i] >> j & 1;
      add_seen_row<kWidth, kKeys>(weights, own, j, shown, 0, chunks, out, Share::row_begin(), kPitch);
    }
  }

  // Row i of the lane's, summed over the lanes that share it.
  __device__ __forceinline__ SoftRow whole_row(int i) const {
    SoftRow whole = row[i];
#pragma unroll
    for (int step = 1; step < 8; step *= 2) whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, step);
    return whole;
  }

  // Lays the warp's rows down in shared memory, `pitch` numbers apart.
  __device__ __forceinline__ void lay_down(float* sums, int pitch, SoftRow* rows) const {
    const int x = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const SoftRow whole = whole_row(i);
      const int at = fma_row(i, 0);
      if (x == 0) rows[at] = whole;
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        *reinterpret_cast<Chunk32*>(sums + at * pitch +
                                    (x + 8 * q) * 4) = {{out[i][q][0], out[i][q][1], out[i][q][2], out[i][q][3]}};
      }
    }
  }

  __device__ __forceinline__ void write(const AttentionArgs& a, const QueryTask& task, bool wide) const {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const RowAnswer answer = finished(whole_row(i), static_cast<float>(a.extra));
      const int64_t query = task.tile.begin + fma_row(i);
      if (query >= task.tile.end) continue;
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + query;
      if (a.lse && threadIdx.x % 8 == 0) static_cast<float*>(a.lse)[at] = answer.lse;
      write_row(out[i], answer.factor, static_cast<float*>(a.out) + at * width, 0, width, wide);
    }
  }
};

template <int kWidth>
__global__ void __launch_bounds__(128, 2) attention_fma_kernel(AttentionArgs a, int64_t slots, bool wide) {
  using Tile = ForwardTile<float, kWidth>;
  TK_SHARED(lists, KeyList<Tile::kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_SHARED(task, QueryTask);
  TK_DYNAMIC_SHARED(float, queries);
  if (threadIdx.x == 0) task = query_task(a.policy, a.shape, slots, Tile::kRows);
  __syncthreads();
  if (task.tile.begin >= task.tile.end) return;
  const RowSource<float> q = row_source<float>(a.q, task.b, task.h, a.shape.width, wide);
  load_rows<float, Tile::kRows, kWidth, Tile::kThreads>(queries, q, task.tile);
  FmaRows<Tile> rows;
  rows.start(queries, task.tile.end - task.tile.begin, a.scale, a.shape.width, a.key_bias.data != nullptr);
  float* steps = queries + Tile::kRows * kWidth;
  attend<Tile>(a.policy, a.shape, KeySource{a.k, a.v, a.key_bias}, task, wide, steps, lists, walk, rows);
  rows.write(a, task, wide);
}

}  // namespace tk::attention::gpu
