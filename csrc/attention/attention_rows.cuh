// SPDX-License-Identifier: Apache-2.0
// The loop of the kernels that own a tile of queries, 16 a warp, and walk over the keys that the tile sees: attention,
// and of its gradient the part for the queries.
#pragma once
#include "attention/key_walk.cuh"
#include "attention/tile_rows.cuh"

namespace tk::attention::gpu {

constexpr int kTileRows = 64;
constexpr int kTileThreads = 2 * kTileRows;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

// Extents of a block's buffers; bytes of its dynamic shared memory: queries, then keys and values of even and odd
// steps, then the weights of float32.
template <class T, int kWidthOfRows>
struct ForwardTile {
  using Item = T;
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kWidth = kWidthOfRows;
  static constexpr int kRows = kTileRows;
  static constexpr int kWarpRows = 16;
  static constexpr int kKeyWarps = 1;  // warps that share rows: each has a part of the keys of a step
  static constexpr int kThreads = kTileThreads;
  static constexpr int kKeys = kWidth > 128 ? (kHalf ? 32 : 16) : (kHalf ? 64 : 32);
  static constexpr size_t kRowItems = (kRows + 4 * kKeys) * kWidth;
  static constexpr size_t kBytes = kRowItems * sizeof(T) + (kHalf ? 0 : kRows * (kKeys + 8) * sizeof(float));
};

// What a call attends over.
struct KeySource {
  HeadRows k, v;
  KeyBias key_bias;
};

TK_INLINE const float* bias_of_head(const KeyBias& bias, int64_t b, int64_t h) {
  return bias.data ? bias.data + b * bias.batch_stride + h * bias.head_stride : nullptr;
}

// Whole rows of chunks of 16 bytes: even steps use the first buffer, odd ones the second.
template <class Tile>
struct StepBuffers {
  using T = typename Tile::Item;
  static constexpr int kItems = Tile::kKeys * Tile::kWidth;
  T* first;
  __device__ __forceinline__ T* left(int step) const { return first + step % 2 * 2 * kItems; }
  __device__ __forceinline__ T* right(int step) const { return left(step) + kItems; }
};

// `Rows` holds a block's answer so far:
//   scores(keys, values, list, seen, plain)  weights of one step; none where nothing is seen
//   add(keys, values, list, seen)            their products
//   watched(keys, values)                    what the weights are multiplied with: between the two, steps with hidden
//                                            keys look there for values that a weight of zero would not hide
// The rows of queries may still be on their way when the loop begins.
template <class Tile, class Rows>
__device__ __forceinline__ void attend(const Policy& policy, const Shape& shape, const KeySource& source,
                                       const QueryTask& task, bool wide, typename Tile::Item* steps,
                                       KeyList<Tile::kKeys>* lists, KeyWalk& walk, Rows& rows) {
  using T = typename Tile::Item;
  const StepBuffers<Tile> buffers{steps};
  const RowSource<T> k = row_source<T>(source.k, task.b, task.group, shape.width, wide);
  const RowSource<T> v = row_source<T>(source.v, task.b, task.group, shape.width, wide);
  const float* bias = bias_of_head(source.key_bias, task.b, task.h);
  const bool walker = threadIdx.x < 32;
  if (walker) {
    if (threadIdx.x == 0) begin_walk(walk);
    __syncwarp();
    write_list(policy, shape.extents, task, bias, walk, lists[0]);
    __syncwarp();
    write_list(policy, shape.extents, task, bias, walk, lists[1]);
  }
  __syncthreads();
  if (lists[0].count > 0) {
    load_listed<T, Tile::kKeys, Tile::kWidth, Tile::kThreads>(buffers.left(0), buffers.right(0), k, v, lists[0].key);
  }
  cp_async_commit();
  for (int step = 0, at = 0; lists[at].count > 0; ++step) {
    const int next = at == kLists - 1 ? 0 : at + 1;
    const int after = next == kLists - 1 ? 0 : next + 1;
    KeyList<Tile::kKeys>& now = lists[at];
    T* keys = buffers.left(step);
    T* values = buffers.right(step);
    cp_async_wait<0>();
    __syncthreads();
    if (lists[next].count > 0) {
      load_listed<T, Tile::kKeys, Tile::kWidth, Tile::kThreads>(buffers.left(step + 1), buffers.right(step + 1), k, v,
                                                                lists[next].key);
    }
    cp_async_commit();
    if (walker) write_list(policy, shape.extents, task, bias, walk, lists[after]);
    const bool plain = is_plain(now);
    const uint64_t seen = plain ? ~uint64_t{0} : seen_by_rows(policy, shape.extents, task, now);
    if (now.partial) {
      find_strange<T, Tile::kKeys, Tile::kWidth, Tile::kThreads>(Rows::watched(keys, values), k.chunks, now.strange);
    }
    rows.scores(keys, values, now, seen, plain);
    if (now.partial) __syncthreads();
    rows.add(keys, values, now, seen);
    at = next;
  }
  cp_async_wait<0>();
}

// What a warp of a tile works on: rows from row_begin on, and of a step the keys from key_begin on.
template <class Tile>
struct WarpShare {
  static constexpr int kKeys = Tile::kKeys / Tile::kKeyWarps;
  __device__ __forceinline__ static int row_begin() { return threadIdx.x / 32 / Tile::kKeyWarps * Tile::kWarpRows; }
  __device__ __forceinline__ static int key_begin() {
    return Tile::kKeyWarps == 1 ? 0 : threadIdx.x / 32 % Tile::kKeyWarps * kKeys;
  }
  // Of bits of the keys of a step.
  __device__ __forceinline__ static uint64_t bits(uint64_t of_step) {
    return Tile::kKeyWarps == 1 ? of_step : of_step >> key_begin() & low_bits(kKeys);
  }
};

// ---- the running maximum and sum of a row (online softmax)
// ------------------------------------------------------------ Powers of two instead of e: `largest` is the largest
// score times log2(e), `sum` that of 2^(score - largest).
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

}  // namespace tk::attention::gpu
