// SPDX-License-Identifier: Apache-2.0
// attention_backward of float32 on the CUDA cores. Weights and gradients of scores go through shared memory, from the
// lanes of one warp to the same lanes.
#pragma once
#include "attention/backward_rows.cuh"
#include "attention/products_fma.cuh"

namespace tk::attention::gpu {

// Gradients of a tile of queries. Lane (y, x) holds rows y, y + 4, y + 8, y + 12 of its warp.
template <class Tile>
struct FmaQueryGrad {
  static constexpr int kKeys = Tile::kKeys;
  static constexpr int kColumns = kKeys / 8;
  static constexpr int kWidth = Tile::kWidth;
  float sum[4][kWidth / 32][4];
  float shift[4], centre[4];
  const float* q;
  const float* grad;
  float* weights;
  float scale;
  int chunks;
  bool biased, idle;

  __device__ __forceinline__ static const float* watched(const float* keys, const float*) { return keys; }

  __device__ __forceinline__ void start(const AttentionBackwardArgs& a, const float* centres, const QueryTask& task,
                                        float* shared) {
    clear(sum);
    q = shared;
    grad = shared + Tile::kRows * kWidth;
    weights = shared + Tile::kRowItems;
    scale = static_cast<float>(a.scale);
    chunks = static_cast<int>(divided_up(a.shape.width, 16) * 4);
    biased = a.key_bias.data != nullptr;
    idle = task.tile.begin + threadIdx.x / 32 * 16 >= task.tile.end;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t query = task.tile.begin + fma_row(i);
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + query;
      shift[i] = query < task.tile.end ? static_cast<const float*>(a.lse)[at] * kLog2E : 0.0f;
      centre[i] = query < task.tile.end ? centres[at] : 0.0f;
    }
  }

  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }
  __device__ __forceinline__ uint64_t bits_of(uint64_t seen, int i) const {
    return bits_of_lane(seen, threadIdx.x % 32 / 8 + 4 * i);
  }

  __device__ __forceinline__ void scores(const float* keys, const float* values, const KeyList<kKeys>& list,
                                         uint64_t seen, bool plain) {
    if (nothing_seen(seen)) return;
    float score[4][kColumns];
    float product[4][kColumns];
    multiply_rows<kWidth>(q, keys, chunks, score);
    multiply_rows<kWidth>(grad, values, chunks, product);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint64_t bits = plain ? ~uint64_t{0} : bits_of(seen, i);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int key = threadIdx.x % 8 + 8 * j;
        const float s = biased ? fmaf(score[i][j], scale, list.bias[key]) : score[i][j] * scale;
        const float p = exp2f(fmaf(s, kLog2E, -shift[i]));
        const float slope = p * (product[i][j] - centre[i]);
        weights[fma_row(i) * Weights<kKeys>::kPitch + key] = bits >> key & 1 ? slope : 0.0f;
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ void add(const float* keys, const float*, const KeyList<kKeys>& list, uint64_t seen) {
    if (nothing_seen(seen)) return;
    if (!list.partial || joined(list.strange) == 0) {
      multiply_columns<kWidth, kKeys>(weights, keys, 0, chunks, sum);
      return;
    }
    uint64_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) bits[i] = bits_of(seen, i);
#pragma unroll 1
    for (int j = 0; j < kKeys; ++j) {
      bool shown[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) shown[i] = bits[i] >> j & 1;
      add_seen_row<kWidth, kKeys>(weights, keys, j, shown, 0, chunks, sum);
    }
  }

  __device__ __forceinline__ void write(const AttentionBackwardArgs& a, const QueryTask& task, bool wide) {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t query = task.tile.begin + fma_row(i);
      if (query >= task.tile.end) continue;
      if (shift[i] == -kInfinity) {  // attends to nothing
#pragma unroll
        for (int c = 0; c < kWidth / 32; ++c) sum[i][c][0] = sum[i][c][1] = sum[i][c][2] = sum[i][c][3] = 0.0f;
      }
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + query;
      write_row(sum[i], scale, static_cast<float*>(a.grad_q) + at * width, 0, width, wide);
    }
  }
};

template <int kWidth>
__global__ void __launch_bounds__(BackwardTile<float, kWidth>::kThreads, 1)
    attention_query_grad_fma_kernel(AttentionBackwardArgs a, BackwardScratch scratch, int64_t slots, bool wide) {
  using Tile = BackwardTile<float, kWidth>;
  TK_SHARED(lists, KeyList<Tile::kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_SHARED(task, QueryTask);
  TK_DYNAMIC_SHARED(float, shared);
  if (threadIdx.x == 0) task = query_task(a.policy, a.shape, slots, Tile::kRows);
  __syncthreads();
  if (task.tile.begin >= task.tile.end) return;
  const RowSource<float> q = row_source<float>(a.q, task.b, task.h, a.shape.width, wide);
  const RowSource<float> grad = row_source<float>(a.grad, task.b, task.h, a.shape.width, wide);
  load_rows<float, Tile::kRows, kWidth, Tile::kThreads>(shared, q, task.tile);
  load_rows<float, Tile::kRows, kWidth, Tile::kThreads>(shared + Tile::kRows * kWidth, grad, task.tile);
  FmaQueryGrad<Tile> rows;
  rows.start(a, scratch.centre, task, shared);
  float* steps = shared + 2 * Tile::kRows * kWidth;
  attend<Tile>(a.policy, a.shape, KeySource{a.k, a.v, a.key_bias}, task, wide, steps, lists, walk, rows);
  rows.write(a, task, wide);
}

// Gradients of a tile of keys and values. Lane (y, x) holds keys y, y + 4, y + 8, y + 12 of its warp.
template <class Tile>
struct FmaKeyGrad {
  static constexpr int kStep = Tile::kKeys;
  static constexpr int kWidth = Tile::kWidth;
  static constexpr int kQuads = Tile::kColumns / 32;
  float sum_k[4][kQuads][4], sum_v[4][kQuads][4];
  float bias[4], bias_sum[4];
  int64_t head;
  const float* k;
  const float* v;
  float* weights;
  float* slopes;  // gradients of the scores
  float scale;
  int first, chunks;
  bool idle;

  __device__ __forceinline__ void start(const AttentionBackwardArgs& a, const KeyTask& task, float* shared) {
    clear(sum_k);
    clear(sum_v);
#pragma unroll
    for (int i = 0; i < 4; ++i) bias[i] = bias_sum[i] = 0.0f;
    head = -1;
    k = shared;
    v = shared + Tile::kRows * kWidth;
    weights = shared + Tile::kRowItems;
    slopes = weights + Tile::kWeightItems;
    scale = static_cast<float>(a.scale);
    first = task.part * Tile::kColumns / 4;
    chunks = static_cast<int>(divided_up(a.shape.width, 16) * 4);
    idle = task.keys.begin + threadIdx.x / 32 * 16 >= task.keys.end;
  }

  // Heads follow each other: the gradient of the bias of the last one is complete.
  __device__ __forceinline__ void turn_to(int64_t next, const AttentionBackwardArgs& a, const BackwardScratch& scratch,
                                          const KeyTask& task) {
    if (!a.key_bias.data || next == head) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float sum = bias_sum[i];
#pragma unroll
      for (int step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
      const int64_t key = task.keys.begin + fma_row(i);
      const bool inside = key < task.keys.end;
      if (head >= 0 && scratch.key_bias && task.part == 0 && inside && threadIdx.x % 8 == 0) {
        scratch.key_bias[(task.b * a.shape.heads + head) * a.shape.extents.keys + key] = sum;
      }
      bias[i] = next >= 0 && inside ? bias_of_head(a.key_bias, task.b, next)[key] : 0.0f;
      bias_sum[i] = 0.0f;
    }
    head = next;
  }

  __device__ __forceinline__ void scores(const float* queries, const float* grads, const QueryList<kStep>& list,
                                         bool plain) {
    if (idle) return;
    float score[4][kStep / 8];
    float product[4][kStep / 8];
    multiply_rows<kWidth>(k, queries, chunks, score);
    multiply_rows<kWidth>(v, grads, chunks, product);
#pragma unroll
    for (int j = 0; j < kStep / 8; ++j) {
      const int query = threadIdx.x % 8 + 8 * j;
      const uint64_t seen = plain ? ~uint64_t{0} : list.seen[query];
      const float shift = list.shift[query];
      const float centre = list.centre[query];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool shown = seen >> fma_row(i) & 1;
        const float p = exp2f(fmaf(fmaf(score[i][j], scale, bias[i]), kLog2E, -shift));
        const float slope = shown ? p * (product[i][j] - centre) : 0.0f;
        const int at = fma_row(i) * Weights<kStep>::kPitch + query;
        weights[at] = shown ? p : 0.0f;
        slopes[at] = slope;
        bias_sum[i] += slope;
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ void add(const float* queries, const float* grads, const QueryList<kStep>& list,
                                      bool plain) {
    if (idle) return;
    if (plain || joined(list.strange) == 0) {
      multiply_columns<kWidth, kStep>(weights, grads, first, chunks, sum_v);
      multiply_columns<kWidth, kStep>(slopes, queries, first, chunks, sum_k);
      return;
    }
#pragma unroll 1
    for (int j = 0; j < kStep; ++j) {
      bool shown[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) shown[i] = list.seen[j] >> fma_row(i) & 1;
      add_seen_row<kWidth, kStep>(weights, grads, j, shown, first, chunks, sum_v);
      add_seen_row<kWidth, kStep>(slopes, queries, j, shown, first, chunks, sum_k);
    }
  }

  __device__ __forceinline__ void write(const AttentionBackwardArgs& a, const KeyTask& task, bool wide) const {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t key = task.keys.begin + fma_row(i);
      if (key >= task.keys.end) continue;
      const int64_t at = ((task.b * a.shape.groups + task.group) * a.shape.extents.keys + key) * width;
      write_row(sum_k[i], scale, static_cast<float*>(a.grad_k) + at, first, width, wide);
      write_row(sum_v[i], 1.0f, static_cast<float*>(a.grad_v) + at, first, width, wide);
    }
  }
};

template <int kWidth>
__global__ void __launch_bounds__(BackwardTile<float, kWidth>::kThreads, 1)
    attention_key_grad_fma_kernel(AttentionBackwardArgs a, BackwardScratch scratch, bool wide) {
  using Tile = BackwardTile<float, kWidth>;
  TK_SHARED(lists, QueryList<Tile::kKeys>[kLists]);
  TK_SHARED(walk, QueryWalk);
  TK_SHARED(task, KeyTask);
  TK_DYNAMIC_SHARED(float, shared);
  if (threadIdx.x == 0) task = key_task(a.shape, Tile::kParts, Tile::kRows);
  __syncthreads();
  const RowSource<float> k = row_source<float>(a.k, task.b, task.group, a.shape.width, wide);
  const RowSource<float> v = row_source<float>(a.v, task.b, task.group, a.shape.width, wide);
  load_rows<float, Tile::kRows, kWidth, Tile::kThreads>(shared, k, task.keys);
  load_rows<float, Tile::kRows, kWidth, Tile::kThreads>(shared + Tile::kRows * kWidth, v, task.keys);
  FmaKeyGrad<Tile> rows;
  rows.start(a, task, shared);
  attend_back<Tile>(a, scratch, task, wide, shared + 2 * Tile::kRows * kWidth, lists, walk, rows);
  rows.write(a, task, wide);
}

}  // namespace tk::attention::gpu
