// SPDX-License-Identifier: Apache-2.0
// attention_backward of float16 and bfloat16 on tensor cores: weights and their gradients are rounded to the dtype for
// the products with keys, queries and gradients, sums stay float32.
#pragma once
#include "attention/backward_rows.cuh"
#include "attention/products_mma.cuh"

namespace tk::attention::gpu {

// Gradients of a tile of queries. Lane (g, t) holds rows g and g + 8 of its warp.
template <class Tile>
struct MmaQueryGrad {
  using T = typename Tile::Item;
  static constexpr int kKeys = Tile::kKeys;
  static constexpr int kGroups = kKeys / 8;
  static constexpr int kWidth = Tile::kWidth;
  float sum[kWidth / 8][4];
  float weight[kGroups][4];  // gradients of the scores
  float shift[2], centre[2];
  const T* q;
  const T* grad;
  float scale;
  int chunks;
  bool biased, idle;

  __device__ __forceinline__ static const T* watched(const T* keys, const T*) { return keys; }
  __device__ __forceinline__ static int64_t row_of_lane(int r) {
    return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r;
  }

  __device__ __forceinline__ void start(const AttentionBackwardArgs& a, const float* centres, const QueryTask& task,
                                        const T* shared) {
    clear(sum);
    q = shared;
    grad = shared + Tile::kRows * kWidth;
    scale = static_cast<float>(a.scale);
    chunks = static_cast<int>(divided_up(a.shape.width, 16) * 2);
    biased = a.key_bias.data != nullptr;
    idle = task.tile.begin + threadIdx.x / 32 * 16 >= task.tile.end;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t i = task.tile.begin + row_of_lane(r);
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + i;
      shift[r] = i < task.tile.end ? static_cast<const float*>(a.lse)[at] * kLog2E : 0.0f;
      centre[r] = i < task.tile.end ? centres[at] : 0.0f;
    }
  }

  __device__ __forceinline__ bool nothing_seen(uint64_t seen) const {
    return idle || !__any_sync(kAllLanes, seen != 0);
  }

  __device__ __forceinline__ void scores(const T* keys, const T* values, const KeyList<kKeys>& list, uint64_t seen,
                                         bool plain) {
    if (nothing_seen(seen)) return;
    const int lane = threadIdx.x % 32;
    float product[kGroups][4];
    multiply_rows<T, kWidth>(q, keys, chunks, weight);
    multiply_rows<T, kWidth>(grad, values, chunks, product);
    const uint64_t of_row[2] = {bits_of_lane(seen, lane / 4), bits_of_lane(seen, lane / 4 + 8)};
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = n * 8 + lane % 4 * 2 + e % 2;
        const float score = biased ? fmaf(weight[n][e], scale, list.bias[key]) : weight[n][e] * scale;
        const float p = exp2_flushed(fmaf(score, kLog2E, -shift[e / 2]));
        const bool shown = plain || (of_row[e / 2] >> key & 1) != 0;
        weight[n][e] = shown ? p * (product[n][e] - centre[e / 2]) : 0.0f;
      }
    }
  }

  __device__ __forceinline__ void add(T* keys, const T*, const KeyList<kKeys>& list, uint64_t seen) {
    const bool idle_now = nothing_seen(seen);
    const uint64_t strange = list.partial ? joined(list.strange) : 0;
    if (strange != 0) {
      if (!idle_now) add_strange(keys, strange, seen);
      __syncthreads();
      clear_rows<T, kKeys, kWidth, Tile::kThreads>(keys, strange);
      __syncthreads();
    }
    if (!idle_now) multiply_columns<T, kWidth>(weight, keys, 0, chunks, sum);
  }

  __device__ __forceinline__ void add_strange(const T* keys, uint64_t strange, uint64_t seen) {
    const int lane = threadIdx.x % 32;
    const uint64_t of_row[2] = {bits_of_lane(seen, lane / 4), bits_of_lane(seen, lane / 4 + 8)};
    for (int j = 0; j < kKeys; ++j) {
      if (!(strange >> j & 1)) continue;
      const bool shown[2] = {(of_row[0] >> j & 1) != 0, (of_row[1] >> j & 1) != 0};
      add_seen_row<T, kWidth>(weight, keys, j, shown, 0, chunks, sum);
    }
  }

  __device__ __forceinline__ void write(const AttentionBackwardArgs& a, const QueryTask& task, bool pairs) {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t i = task.tile.begin + row_of_lane(r);
      if (i >= task.tile.end) continue;
      if (shift[r] == -kInfinity) {  // attends to nothing
#pragma unroll
        for (int c = 0; c < kWidth / 8; ++c) sum[c][2 * r] = sum[c][2 * r + 1] = 0.0f;
      }
      const int64_t at = (task.b * a.shape.heads + task.h) * a.shape.extents.queries + i;
      write_row(sum, r, scale, static_cast<T*>(a.grad_q) + at * width, 0, width, pairs);
    }
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(128, 1)
    attention_query_grad_mma_kernel(AttentionBackwardArgs a, BackwardScratch scratch, int64_t slots, bool wide) {
  using Tile = BackwardTile<T, kWidth>;
  TK_SHARED(lists, KeyList<Tile::kKeys>[kLists]);
  TK_SHARED(walk, KeyWalk);
  TK_SHARED(task, QueryTask);
  TK_DYNAMIC_SHARED(T, shared);
  if (threadIdx.x == 0) task = query_task(a.policy, a.shape, slots, Tile::kRows);
  __syncthreads();
  if (task.tile.begin >= task.tile.end) return;
  const RowSource<T> q = row_source<T>(a.q, task.b, task.h, a.shape.width, wide);
  const RowSource<T> grad = row_source<T>(a.grad, task.b, task.h, a.shape.width, wide);
  load_rows<T, Tile::kRows, kWidth, Tile::kThreads>(shared, q, task.tile);
  load_rows<T, Tile::kRows, kWidth, Tile::kThreads>(shared + Tile::kRows * kWidth, grad, task.tile);
  MmaQueryGrad<Tile> rows;
  rows.start(a, scratch.centre, task, shared);
  T* steps = shared + 2 * Tile::kRows * kWidth;
  attend<Tile>(a.policy, a.shape, KeySource{a.k, a.v, a.key_bias}, task, wide, steps, lists, walk, rows);
  rows.write(a, task, wide);
}

// Gradients of a tile of keys and values. Lane (g, t) holds keys g and g + 8 of its warp.
template <class Tile>
struct MmaKeyGrad {
  using T = typename Tile::Item;
  static constexpr int kStep = Tile::kKeys;
  static constexpr int kGroups = kStep / 8;
  static constexpr int kWidth = Tile::kWidth;
  static constexpr int kChunks = Tile::kColumns / 8;
  float sum_k[kChunks][4], sum_v[kChunks][4];
  float weight[kGroups][4], slope[kGroups][4];  // of the values; of the scores
  float bias[2], bias_sum[2];
  int64_t head;
  const T* k;
  const T* v;
  float scale;
  int first, chunks;
  bool idle;

  __device__ __forceinline__ static int row_of_lane(int r) {
    return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r;
  }

  __device__ __forceinline__ void start(const AttentionBackwardArgs& a, const KeyTask& task, const T* shared) {
    clear(sum_k);
    clear(sum_v);
    bias[0] = bias[1] = bias_sum[0] = bias_sum[1] = 0.0f;
    head = -1;
    k = shared;
    v = shared + Tile::kRows * kWidth;
    scale = static_cast<float>(a.scale);
    first = task.part * kChunks;
    chunks = static_cast<int>(divided_up(a.shape.width, 16) * 2);
    idle = task.keys.begin + threadIdx.x / 32 * 16 >= task.keys.end;
  }

  // Heads follow each other: the gradient of the bias of the last one is complete.
  __device__ __forceinline__ void turn_to(int64_t next, const AttentionBackwardArgs& a, const BackwardScratch& scratch,
                                          const KeyTask& task) {
    if (!a.key_bias.data || next == head) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = bias_sum[r];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      const int64_t key = task.keys.begin + row_of_lane(r);
      const bool inside = key < task.keys.end;
      if (head >= 0 && scratch.key_bias && task.part == 0 && inside && threadIdx.x % 4 == 0) {
        scratch.key_bias[(task.b * a.shape.heads + head) * a.shape.extents.keys + key] = sum;
      }
      bias[r] = next >= 0 && inside ? bias_of_head(a.key_bias, task.b, next)[key] : 0.0f;
      bias_sum[r] = 0.0f;
    }
    head = next;
  }

  __device__ __forceinline__ void scores(const T* queries, const T* grads, const QueryList<kStep>& list, bool plain) {
    if (idle) return;
    multiply_rows<T, kWidth>(k, queries, chunks, weight);
    multiply_rows<T, kWidth>(v, grads, chunks, slope);
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = n * 8 + threadIdx.x % 4 * 2 + e % 2;
        const bool shown = plain || (list.seen[query] >> row_of_lane(e / 2) & 1) != 0;
        const float score = fmaf(weight[n][e], scale, bias[e / 2]);
        const float p = exp2_flushed(fmaf(score, kLog2E, -list.shift[query]));
        weight[n][e] = shown ? p : 0.0f;
        slope[n][e] = shown ? p * (slope[n][e] - list.centre[query]) : 0.0f;
        bias_sum[e / 2] += slope[n][e];
      }
    }
  }

  __device__ __forceinline__ void add(T* queries, T* grads, const QueryList<kStep>& list, bool plain) {
    const uint64_t strange = plain ? 0 : joined(list.strange);
    if (strange != 0) {
      if (!idle) add_strange(queries, grads, list, strange);
      __syncthreads();
      clear_rows<T, kStep, kWidth, Tile::kThreads>(queries, strange);
      clear_rows<T, kStep, kWidth, Tile::kThreads>(grads, strange);
      __syncthreads();
    }
    if (idle) return;
    multiply_columns<T, kWidth>(weight, grads, first, chunks, sum_v);
    multiply_columns<T, kWidth>(slope, queries, first, chunks, sum_k);
  }

  __device__ __forceinline__ void add_strange(const T* queries, const T* grads, const QueryList<kStep>& list,
                                              uint64_t strange) {
    for (int j = 0; j < kStep; ++j) {
      if (!(strange >> j & 1)) continue;
      const bool shown[2] = {(list.seen[j] >> row_of_lane(0) & 1) != 0, (list.seen[j] >> row_of_lane(1) & 1) != 0};
      add_seen_row<T, kWidth>(weight, grads, j, shown, first, chunks, sum_v);
      add_seen_row<T, kWidth>(slope, queries, j, shown, first, chunks, sum_k);
    }
  }

  __device__ __forceinline__ void write(const AttentionBackwardArgs& a, const KeyTask& task, bool pairs) const {
    const int width = static_cast<int>(a.shape.width);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t key = task.keys.begin + row_of_lane(r);
      if (key >= task.keys.end) continue;
      const int64_t at = ((task.b * a.shape.groups + task.group) * a.shape.extents.keys + key) * width;
      write_row(sum_k, r, scale, static_cast<T*>(a.grad_k) + at, first, width, pairs);
      write_row(sum_v, r, 1.0f, static_cast<T*>(a.grad_v) + at, first, width, pairs);
    }
  }
};

template <class T, int kWidth>
__global__ void __launch_bounds__(128, 1)
    attention_key_grad_mma_kernel(AttentionBackwardArgs a, BackwardScratch scratch, bool wide) {
  using Tile = BackwardTile<T, kWidth>;
  TK_SHARED(lists, QueryList<Tile::kKeys>[kLists]);
  TK_SHARED(walk, QueryWalk);
  TK_SHARED(task, KeyTask);
  TK_DYNAMIC_SHARED(T, shared);
  if (threadIdx.x == 0) task = key_task(a.shape, Tile::kParts, Tile::kRows);
  __syncthreads();
  const RowSource<T> k = row_source<T>(a.k, task.b, task.group, a.shape.width, wide);
  const RowSource<T> v = row_source<T>(a.v, task.b, task.group, a.shape.width, wide);
  load_rows<T, Tile::kRows, kWidth, Tile::kThreads>(shared, k, task.keys);
  load_rows<T, Tile::kRows, kWidth, Tile::kThreads>(shared + Tile::kRows * kWidth, v, task.keys);
  MmaKeyGrad<Tile> rows;
  rows.start(a, task, shared);
  attend_back<Tile>(a, scratch, task, wide, shared + 2 * Tile::kRows * kWidth, lists, walk, rows);
  rows.write(a, task, wide);
}

}  // namespace tk::attention::gpu
