// SPDX-License-Identifier: Apache-2.0
// The keys of a split, a step at a time, from the last to the first: a row's walk to the root then meets its ancestors
// in the order of the steps, and no step walks again what another has walked. Steps are written two ahead, as those of
// attention (attention/key_walk.cuh).
#pragma once
#include "tree/tree_tile.cuh"

namespace tk::tree::gpu {

constexpr int kSteps = 3;  // multiplied, on their way, being written

// Lives in shared memory, so nothing is initialised.
template <class Tile>
struct TreeStep {
  static constexpr bool kMayBias = false;
  int64_t key[Tile::kKeys], value[Tile::kKeys];  // where rows begin, in elements; -1: none
  uint64_t seen[Tile::kRows];                    // keys that a row sees; in partial steps only
  unsigned strange[2];                           // keys whose values are not all finite; looked for in partial steps
  int partial;                                   // some row does not see some key
};

TK_INLINE int64_t page_of(const TreeAttentionArgs& a, int64_t b, int64_t page) {
  return a.table.pages ? clamped(a.table.pages[b * a.table.per_sequence + page], 0, a.table.count - 1) : b;
}

// Bits of keys [first, end) that a row sees. `above` is its next ancestor not met yet, -1 behind the root.
TK_INLINE uint64_t keys_seen(const TreeAttentionArgs& a, const TreeTask& task, int64_t first, int64_t end, int& above) {
  uint64_t bits = low_bits(clamped(task.length - first, 0, end - first));
  for (; above >= 0 && task.length + above >= first; above = static_cast<int>(parent_of(a, task.b, above))) {
    if (task.length + above < end) bits |= uint64_t{1} << (task.length + above - first);
  }
  return bits;
}

// Step `step` of `steps`. Thread t has row t of the tile, `visible` unless it is padding, and key t of the step.
template <class Tile>
__device__ __forceinline__ void write_step(const TreeAttentionArgs& a, const TreeTask& task, int step, int steps,
                                           bool visible, int& above, TreeStep<Tile>& to) {
  if (step >= steps) return;
  const int thread = threadIdx.x;
  const int64_t first = task.begin + static_cast<int64_t>(steps - 1 - step) * Tile::kKeys;
  const int64_t end = at_most(first + Tile::kKeys, task.end);
  const bool partial = first + Tile::kKeys > at_most(task.length, task.end);
  if (thread < Tile::kKeys) {
    const int64_t j = first + thread;
    int64_t key = -1;
    int64_t value = -1;
    if (j < end) {
      const auto page_rows = static_cast<unsigned>(a.table.rows);
      const int64_t page = page_of(a, task.b, static_cast<unsigned>(j) / page_rows);
      const int64_t row = static_cast<unsigned>(j) % page_rows;
      key = page * a.k.batch_stride + row * a.k.row_stride;
      value = page * a.v.batch_stride + row * a.v.row_stride;
    }
    to.key[thread] = key;
    to.value[thread] = value;
  }
  if (thread < Tile::kRows && partial) to.seen[thread] = visible ? keys_seen(a, task, first, end, above) : 0;
  if (thread > 0) return;
  to.partial = partial;
  to.strange[0] = to.strange[1] = 0;
}

template <class Tile, class T>
__device__ __forceinline__ void load_step(T* keys, T* values, const RowSource<T>& k, const RowSource<T>& v,
                                          const TreeStep<Tile>& step) {
  constexpr int kChunks = Tile::kWidth / ChunkOf<T>::kItems;
  for (int u = threadIdx.x; u < Tile::kKeys * kChunks; u += Tile::kThreads) {
    const int row = u / kChunks;
    const int chunk = u % kChunks;
    if (chunk >= k.chunks) continue;
    const int at = attention::gpu::place<T, Tile::kWidth>(row, chunk);
    attention::gpu::load_chunk(keys + at, k, step.key[row], chunk);
    attention::gpu::load_chunk(values + at, v, step.value[row], chunk);
  }
}

template <class Tile, class T>
__device__ __forceinline__ void load_queries(T* to, const RowSource<T>& q, const TreeRow* rows) {
  constexpr int kChunks = Tile::kWidth / ChunkOf<T>::kItems;
  for (int u = threadIdx.x; u < Tile::kRows * kChunks; u += Tile::kThreads) {
    const int row = u / kChunks;
    const int chunk = u % kChunks;
    if (chunk >= q.chunks) continue;
    attention::gpu::load_chunk(to + attention::gpu::place<T, Tile::kWidth>(row, chunk), q, rows[row].query, chunk);
  }
}

// Rows addressed by where they begin.
template <class T>
__device__ __forceinline__ RowSource<T> rows_anywhere(const void* data, int64_t offset, const TreeAttentionArgs& a,
                                                      bool wide) {
  const int padded = static_cast<int>(divided_up(a.width, 16) * 16);
  return {static_cast<const T*>(data) + offset, 1, static_cast<int>(a.width), padded / ChunkOf<T>::kItems, wide};
}

// Bits of the lane's row: lane l has row l % 16 of its warp.
template <class Tile>
__device__ __forceinline__ uint64_t seen_by_lane(const TreeStep<Tile>& step) {
  const int row = threadIdx.x % 16;
  if (!step.partial) return ~uint64_t{0};
  return row < Tile::kWarpRows ? step.seen[attention::gpu::WarpShare<Tile>::row_begin() + row] : 0;
}

}  // namespace tk::tree::gpu
