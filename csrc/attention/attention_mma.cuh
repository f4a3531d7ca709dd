// SPDX-License-Identifier: Apache-2.0
// attention of float16 and bfloat16 on tensor cores. A warp multiplies its 16 queries by the keys of a step; the scores
// stay in registers, are rounded to the dtype as weights, and are the left side of the product with the values.
//
// Lane (g, t) = (lane / 4, lane % 4) holds rows g and g + 8 of the warp, and columns 2t and 2t + 1 of every eight.
#pragma once
#include "attention/attention_rows.cuh"

namespace tk::attention::gpu {

template <class T>
TK_INLINE uint32_t pair_of(float low, float high) {
  return from_float<T>(low).bits | uint32_t{from_float<T>(high).bits} << 16;
}

// sum[n] += rows [16w, 16w + 16) of `left` times rows [8n, 8n + 8) of `right`, along the first `chunks` chunks.
template <class T, int kWidth, int kGroups>
__device__ __forceinline__ void multiply_rows(const T* left, const T* right, int chunks, float (&sum)[kGroups][4]) {
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    if (2 * k >= chunks) break;
    uint32_t a[4];
    ldmatrix_x4(a, left + place<T, kWidth>(row, 2 * k + lane / 16));
#pragma unroll
    for (int n = 0; n < kGroups; n += 2) {
      uint32_t both[4];
      ldmatrix_x4(both, right + place<T, kWidth>(n * 8 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
      const uint32_t first[2] = {both[0], both[1]};
      const uint32_t second[2] = {both[2], both[3]};
      mma_m16n8k16<T>(sum[n], a, first);
      mma_m16n8k16<T>(sum[n + 1], a, second);
    }
  }
}

// sum += weights, rounded to T, times rows of `right`: its first `chunks` chunks of columns.
template <class T, int kWidth, int kGroups>
__device__ __forceinline__ void multiply_columns(const float (&weight)[kGroups][4], const T* right, int chunks,
                                                 float (&sum)[kWidth / 8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kGroups / 2; ++k) {
    const float (&low)[4] = weight[2 * k];
    const float (&high)[4] = weight[2 * k + 1];
    const uint32_t a[4] = {pair_of<T>(low[0], low[1]), pair_of<T>(low[2], low[3]), pair_of<T>(high[0], high[1]),
                           pair_of<T>(high[2], high[3])};
#pragma unroll
    for (int c = 0; c < kWidth / 8; c += 2) {
      if (c >= chunks) break;
      uint32_t both[4];
      ldmatrix_x4_trans(both, right + place<T, kWidth>(k * 16 + lane % 16, c + lane / 16));
      const uint32_t first[2] = {both[0], both[1]};
      const uint32_t second[2] = {both[2], both[3]};
      mma_m16n8k16<T>(sum[c], a, first);
      mma_m16n8k16<T>(sum[c + 1], a, second);
    }
  }
}

template <class T, int kWidth>
struct MmaRows {
  static constexpr int kKeys = AttentionTile<T, kWidth>::kKeys;
  static constexpr int kGroups = kKeys / 8;
  float out[kWidth / 8][4];
  float weight[kGroups][4];
  SoftRow row[2];
  float scale;
  int chunks;
  bool biased, idle;  // idle: the warp's rows lie behind the tile

  __device__ __forceinline__ void start(const AttentionArgs& a, const QueryTask& task) {
#pragma unroll
    for (int c = 0; c < kWidth / 8; ++c) out[c][0] = out[c][1] = out[c][2] = out[c][3] = 0.0f;
    row[0] = row[1] = {-kInfinity, 0.0f};
    scale = static_cast<float>(a.scale);
    chunks = static_cast<int>(divided_up(a.shape.width, 16) * 2);
    biased = a.key_bias.data != nullptr;
    idle = task.tile.begin + threadIdx.x / 32 * 16 >= task.tile.end;
  }

  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }

  __device__ __forceinline__ void scores(const T* q, const T* k, const KeyList<kKeys>& list, uint64_t seen,
                                         bool plain) {
    if (nothing_seen(seen)) return;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) weight[n][0] = weight[n][1] = weight[n][2] = weight[n][3] = 0.0f;
    multiply_rows<T, kWidth>(q, k, chunks, weight);
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

  // All warps have multiplied the keys of a partial step: their memory is free.
  __device__ __forceinline__ void add(T* v, T* free, const KeyList<kKeys>& list, uint64_t seen) {
    if (list.partial && joined(list.strange) != 0) add_strange(v, free, joined(list.strange), seen);
    if (!nothing_seen(seen)) multiply_columns<T, kWidth>(weight, v, chunks, out);
  }

  // Adds the values that are not finite to the rows that see them, one key at a time, and sets them to zero.
  __device__ __forceinline__ void add_strange(T* v, T* weights, uint64_t strange, uint64_t seen) {
    const int lane = threadIdx.x % 32;
    const int top = threadIdx.x / 32 * 16 + lane / 4;
    const uint64_t of_row[2] = {bits_of_lane(seen, lane / 4), bits_of_lane(seen, lane / 4 + 8)};
    if (!nothing_seen(seen)) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          weights[(top + e / 2 * 8) * kKeys + n * 8 + lane % 4 * 2 + e % 2] = from_float<T>(weight[n][e]);
        }
      }
      __syncwarp();
      for (int j = 0; j < kKeys; ++j) {
        if (!(strange >> j & 1)) continue;
        const float p[2] = {to_float(weights[top * kKeys + j]), to_float(weights[(top + 8) * kKeys + j])};
#pragma unroll
        for (int c = 0; c < kWidth / 8; ++c) {
          if (c >= chunks) break;
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float value = to_float(v[place<T, kWidth>(j, c) + lane % 4 * 2 + e % 2]);
            if (of_row[e / 2] >> j & 1) out[c][e] = fmaf(p[e / 2], value, out[c][e]);
          }
        }
      }
    }
    __syncthreads();
    for (int u = threadIdx.x; u < kKeys * kWidth; u += kTileThreads) {
      if (strange >> (u / kWidth) & 1) v[u] = T{};
    }
    __syncthreads();
  }

  __device__ __forceinline__ void write(const AttentionArgs& a, const QueryTask& task, bool pairs) const {
    const int lane = threadIdx.x % 32;
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      SoftRow whole = row[r];
      whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, 1);
      whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, 2);
      const RowAnswer answer = finished(whole, static_cast<float>(a.extra));
      const int64_t i = task.tile.begin + threadIdx.x / 32 * 16 + lane / 4 + 8 * r;
      if (i >= task.tile.end) continue;
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + i;
      if (a.lse && lane % 4 == 0) static_cast<float*>(a.lse)[at] = answer.lse;
      T* to = static_cast<T*>(a.out) + at * width + lane % 4 * 2;
#pragma unroll
      for (int c = 0; c < kWidth / 8; ++c) {
        const int left = width - c * 8 - lane % 4 * 2;
        const float x = out[c][2 * r] * answer.factor;
        const float y = out[c][2 * r + 1] * answer.factor;
        if (pairs && left > 0) {
          *reinterpret_cast<uint32_t*>(to + c * 8) = pair_of<T>(x, y);
        } else {
          if (left > 0) to[c * 8] = from_float<T>(x);
          if (left > 1) to[c * 8 + 1] = from_float<T>(y);
        }
      }
    }
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kTileThreads) attention_mma_kernel(AttentionArgs a, int64_t slots, bool wide) {
  TK_SHARED(lists, KeyList<AttentionTile<T, kWidth>::kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_DYNAMIC_SHARED(T, shared);
  const QueryTask task = query_task(a.policy, a.shape, slots, kTileRows);
  if (task.tile.begin >= task.tile.end) return;
  MmaRows<T, kWidth> rows;
  rows.start(a, task);
  attend<T, kWidth>(a, task, wide, shared, lists, walk, rows);
  rows.write(a, task, wide);
}

}  // namespace tk::attention::gpu
