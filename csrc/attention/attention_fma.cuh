// SPDX-License-Identifier: Apache-2.0
// attention of float32 on the CUDA cores. Lane (y, x) = (lane / 8, lane % 8) of a warp holds rows y, y + 4, y + 8, y +
// 12, the scores of keys x, x + 8, ..., and of the answer chunks x, x + 8, ... of four columns. Weights go through
// shared memory, from the lanes of one warp to the same lanes.
#pragma once
#include "attention/attention_rows.cuh"

namespace tk::attention::gpu {

using Chunk32 = ChunkOf<float>;

TK_INLINE float chain(const Chunk32& x, const Chunk32& y, float sum) {
  return fmaf(x.item[3], y.item[3],
              fmaf(x.item[2], y.item[2], fmaf(x.item[1], y.item[1], fmaf(x.item[0], y.item[0], sum))));
}

TK_INLINE const Chunk32& chunk_at(const float* at) { return *reinterpret_cast<const Chunk32*>(at); }

// sum[i][j] += rows 16w + y + 4i of `left` times rows x + 8j of `right`, along the first `chunks` chunks.
template <int kWidth, int kColumns>
__device__ __forceinline__ void multiply_rows(const float* left, const float* right, int chunks,
                                              float (&sum)[4][kColumns]) {
  const int x = threadIdx.x % 8;
  const int y = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 8;
#pragma unroll 2
  for (int c = 0; c < chunks; ++c) {
    Chunk32 row[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) row[i] = chunk_at(left + place<float, kWidth>(y + 4 * i, c));
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const Chunk32 column = chunk_at(right + place<float, kWidth>(x + 8 * j, c));
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i][j] = chain(row[i], column, sum[i][j]);
    }
  }
}

template <int kWidth>
struct FmaRows {
  using Tile = AttentionTile<float, kWidth>;
  static constexpr int kKeys = Tile::kKeys;
  static constexpr int kColumns = kKeys / 8;
  static constexpr int kQuads = kWidth / 32;
  float out[4][kQuads][4];
  SoftRow row[4];
  float* weights;  // shared, [kTileRows][kWeightPitch]; this lane's first row
  float scale;
  int chunks;
  bool biased, idle;

  __device__ __forceinline__ void start(const AttentionArgs& a, const QueryTask& task, float* shared) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      row[i] = {-kInfinity, 0.0f};
#pragma unroll
      for (int q = 0; q < kQuads; ++q) out[i][q][0] = out[i][q][1] = out[i][q][2] = out[i][q][3] = 0.0f;
    }
    const int first = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 8;
    weights = shared + (kTileRows + 4 * kKeys) * kWidth + first * Tile::kWeightPitch;
    scale = static_cast<float>(a.scale);
    chunks = static_cast<int>(divided_up(a.shape.width, 16) * 4);
    biased = a.key_bias.data != nullptr;
    idle = task.tile.begin + threadIdx.x / 32 * 16 >= task.tile.end;
  }

  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }
  __device__ __forceinline__ uint64_t bits_of(uint64_t seen, int i) const {
    return bits_of_lane(seen, threadIdx.x % 32 / 8 + 4 * i);
  }

  __device__ __forceinline__ void scores(const float* q, const float* k, const KeyList<kKeys>& list, uint64_t seen,
                                         bool plain) {
    if (nothing_seen(seen)) return;
    float score[4][kColumns] = {};
    multiply_rows<kWidth, kColumns>(q, k, chunks, score);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint64_t bits = plain ? ~uint64_t{0} : bits_of(seen, i);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int key = threadIdx.x % 8 + 8 * j;
        const float s = biased ? fmaf(score[i][j], scale, list.bias[key]) : score[i][j] * scale;
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
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float weight = exp2f(fmaf(score[j], kLog2E, -base));
      sum += weight;
      weights[4 * i * Tile::kWeightPitch + threadIdx.x % 8 + 8 * j] = weight;
    }
    row[i] = {largest, row[i].sum * kept + sum};
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[i][q][e] *= kept;
    }
  }

  __device__ __forceinline__ void add(const float* v, const float*, const KeyList<kKeys>& list, uint64_t seen) {
    if (nothing_seen(seen)) return;
    if (list.partial && joined(list.strange) != 0) return add_seen(v, seen);
#pragma unroll 1
    for (int key = 0; key < kKeys; key += 4) {
      Chunk32 weight[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) weight[i] = chunk_at(weights + 4 * i * Tile::kWeightPitch + key);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          if (8 * q >= chunks) break;
          const Chunk32 value = chunk_at(v + place<float, kWidth>(key + k, threadIdx.x % 8 + 8 * q));
#pragma unroll
          for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) out[i][q][e] = fmaf(weight[i].item[k], value.item[e], out[i][q][e]);
          }
        }
      }
    }
  }

  // The same where a weight of zero would not hide a value: every key is asked for.
  __device__ __forceinline__ void add_seen(const float* v, uint64_t seen) {
    uint64_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) bits[i] = bits_of(seen, i);
#pragma unroll 1
    for (int key = 0; key < kKeys; ++key) {
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        if (8 * q >= chunks) break;
        const Chunk32 value = chunk_at(v + place<float, kWidth>(key, threadIdx.x % 8 + 8 * q));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float weight = weights[4 * i * Tile::kWeightPitch + key];
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (bits[i] >> key & 1) out[i][q][e] = fmaf(weight, value.item[e], out[i][q][e]);
          }
        }
      }
    }
  }

  __device__ __forceinline__ void write(const AttentionArgs& a, const QueryTask& task, bool wide) const {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      SoftRow whole = row[i];
#pragma unroll
      for (int step = 1; step < 8; step *= 2) whole.sum += __shfl_xor_sync(kAllLanes, whole.sum, step);
      const RowAnswer answer = finished(whole, static_cast<float>(a.extra));
      const int64_t at_row = task.tile.begin + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 8 + 4 * i;
      if (at_row >= task.tile.end) continue;
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + at_row;
      if (a.lse && threadIdx.x % 8 == 0) static_cast<float*>(a.lse)[at] = answer.lse;
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        const int column = (threadIdx.x % 8 + 8 * q) * 4;
        float* to = static_cast<float*>(a.out) + at * width + column;
        Chunk32 chunk;
#pragma unroll
        for (int e = 0; e < 4; ++e) chunk.item[e] = out[i][q][e] * answer.factor;
        if (wide && column < width) {
          *reinterpret_cast<Chunk32*>(to) = chunk;
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (column + e < width) to[e] = chunk.item[e];
          }
        }
      }
    }
  }
};

template <int kWidth>
__global__ void __launch_bounds__(kTileThreads) attention_fma_kernel(AttentionArgs a, int64_t slots, bool wide) {
  TK_SHARED(lists, KeyList<AttentionTile<float, kWidth>::kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_DYNAMIC_SHARED(float, shared);
  const QueryTask task = query_task(a.policy, a.shape, slots, kTileRows);
  if (task.tile.begin >= task.tile.end) return;
  FmaRows<kWidth> rows;
  rows.start(a, task, shared);
  attend<float, kWidth>(a, task, wide, shared, lists, walk, rows);
  rows.write(a, task, wide);
}

}  // namespace tk::attention::gpu
