// SPDX-License-Identifier: Apache-2.0
// What both forward kernels of attention share: a block of four warps owns a tile of 64 queries, 16 a warp, and walks
// over the keys that the tile sees. The running maximum and sum of a row follow the steps (online softmax).
#pragma once
#include "attention/key_walk.cuh"
#include "attention/tile_rows.cuh"

namespace tk::attention::gpu {

constexpr int kTileThreads = 128;
constexpr int kTileRows = 64;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

// Powers of two instead of e: `largest` is the largest score times log2(e), `sum` that of 2^(score - largest).
struct SoftRow {
  float largest, sum;
};

// A row whose scores are all -inf so far has no maximum to subtract.
TK_INLINE float base_of(float largest) { return largest == -kInfinity ? 0.0f : largest; }

// What a row's sums are multiplied with, and its log-sum-exp, once every key has been seen.
struct RowAnswer {
  float factor, lse;
};

__device__ __forceinline__ RowAnswer finished(SoftRow row, float extra) {
  float factor = 1.0f;
  if (extra > 0.0f) {
    const float largest = fmaxf(row.largest, 0.0f);
    factor = exp2f(row.largest - largest);
    row.sum = row.sum * factor + extra * exp2f(-largest);
    row.largest = largest;
  }
  if (row.sum == 0.0f) return {0.0f, -kInfinity};
  return {factor / row.sum, (row.largest + log2f(row.sum)) * kLn2};
}

template <class T, int kWidth>
struct AttentionTile {
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kKeys = kWidth > 128 ? (kHalf ? 32 : 16) : (kHalf ? 64 : 32);
  static constexpr int kWeightPitch = kKeys + 8;  // float32 only: four rows of eight weights meet all banks
  static constexpr size_t kBytes =
      (kTileRows + 4 * kKeys) * kWidth * sizeof(T) + (kHalf ? 0 : kTileRows * kWeightPitch * sizeof(float));
};

// The buffers of a block, and the loads that fill them one step ahead.
template <class T, int kWidth>
struct KeyStream {
  using Tile = AttentionTile<T, kWidth>;
  static constexpr int kKeys = Tile::kKeys;
  static constexpr int kStep = kKeys * kWidth;
  T* q;
  T* steps;  // keys and values of even steps, then of odd ones
  RowSource<T> k, v;

  __device__ __forceinline__ T* keys(int step) const { return steps + step % 2 * 2 * kStep; }
  __device__ __forceinline__ T* values(int step) const { return keys(step) + kStep; }
  __device__ __forceinline__ void load(int step, const KeyList<kKeys>& list) const {
    load_listed<T, kKeys, kWidth, kTileThreads>(keys(step), values(step), k, v, list.key);
  }
};

template <class T, int kWidth>
__device__ __forceinline__ KeyStream<T, kWidth> key_stream(const AttentionArgs& a, const QueryTask& task, bool wide,
                                                           T* shared) {
  return {shared, shared + kTileRows * kWidth, row_source<T>(a.k, task.b, task.group, a.shape.width, wide),
          row_source<T>(a.v, task.b, task.group, a.shape.width, wide)};
}

TK_INLINE const float* bias_of_head(const KeyBias& bias, int64_t b, int64_t h) {
  return bias.data ? bias.data + b * bias.batch_stride + h * bias.head_stride : nullptr;
}

// The loop. `Rows` holds a block's answer so far:
//   scores(q, keys, list)    scores of one step, hidden ones -inf
//   add(values, list, free)  their weights times the values; `free` is memory nobody reads any more
// Between the two, steps with hidden keys look for values that a weight of zero would not hide.
template <class T, int kWidth, class Rows>
__device__ __forceinline__ void attend(const AttentionArgs& a, const QueryTask& task, bool wide, T* shared,
                                       KeyList<AttentionTile<T, kWidth>::kKeys>* lists, KeyWalk& walk, Rows& rows) {
  constexpr int kKeys = AttentionTile<T, kWidth>::kKeys;
  const KeyStream<T, kWidth> stream = key_stream<T, kWidth>(a, task, wide, shared);
  const float* bias = bias_of_head(a.key_bias, task.b, task.h);
  const Extents extents = a.shape.extents;
  const bool walker = threadIdx.x < 32;
  if (walker) {
    if (threadIdx.x == 0) begin_walk(walk);
    __syncwarp();
    write_list(a.policy, extents, task, bias, walk, lists[0]);
    __syncwarp();
    write_list(a.policy, extents, task, bias, walk, lists[1]);
  }
  load_rows<T, kTileRows, kWidth, kTileThreads>(stream.q, row_source<T>(a.q, task.b, task.h, a.shape.width, wide),
                                                task.tile);
  __syncthreads();
  if (lists[0].count > 0) stream.load(0, lists[0]);
  cp_async_commit();
  for (int step = 0, list = 0; lists[list].count > 0; ++step) {
    const int next = list == kLists - 1 ? 0 : list + 1;
    const int after = next == kLists - 1 ? 0 : next + 1;
    const KeyList<kKeys>& now = lists[list];
    cp_async_wait<0>();
    __syncthreads();
    if (lists[next].count > 0) stream.load(step + 1, lists[next]);
    cp_async_commit();
    if (walker) write_list(a.policy, extents, task, bias, walk, lists[after]);
    const bool plain = is_plain(now);
    const uint64_t seen = plain ? ~uint64_t{0} : seen_by_rows(a.policy, extents, task, now);
    if (now.partial) {
      find_strange<T, kKeys, kWidth, kTileThreads>(stream.values(step), stream.v.chunks, lists[list].strange);
    }
    rows.scores(stream.q, stream.keys(step), now, seen, plain);
    if (now.partial) __syncthreads();
    rows.add(stream.values(step), stream.keys(step), now, seen);
    list = next;
  }
  cp_async_wait<0>();
}

}  // namespace tk::attention::gpu
