// SPDX-License-Identifier: Apache-2.0
// How the device cuts queries into tiles. A block finds its tile from its number alone: no plan is computed before the
// kernel and nothing is stored. Some slots of a policy with blocks or grid rows stay empty.
//
// Segments need no tiles of their own: a window of `rows` queries, wherever it starts, walks the keys from its first to
// its last segment, and warps without a key in a step skip it.
#pragma once
#include "attention/attention.h"
#include "core/gpu.cuh"

namespace tk::attention::gpu {

TK_INLINE int64_t clamped(int64_t x, int64_t low, int64_t high) { return x < low ? low : x < high ? x : high; }
TK_INLINE int64_t divided_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Windows of `rows` queries.
template <class P>
TK_MEMBER TileRows tile_of(const P&, const Extents& e, int64_t slot, int64_t rows) {
  return {slot * rows, at_most(slot * rows + rows, e.queries)};
}

// Block r has the slots from rows[r] / n + r on: with that many it never meets those of block r + 1.
TK_MEMBER TileRows tile_of(const BlockMapPolicy& p, const Extents& e, int64_t slot, int64_t rows) {
  int64_t low = 0;
  int64_t high = p.row_blocks;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (p.rows[middle] / rows + middle <= slot ? low : high) = middle;
  }
  const int64_t begin = clamped(p.rows[low], 0, e.queries);
  const int64_t end = clamped(p.rows[low + 1], 0, e.queries);
  const int64_t from = at_least(begin + (slot - begin / rows - low) * rows, begin);
  return {from, at_most(from + rows, end)};
}

// A tile of image tokens lies in one row of the grid.
TK_MEMBER TileRows tile_of(const DiscPolicy& p, const Extents&, int64_t slot, int64_t rows) {
  const int64_t text = divided_up(p.prefix, rows);
  if (slot < text) return {slot * rows, at_most(slot * rows + rows, p.prefix)};
  const int64_t in_row = divided_up(p.width, rows);
  const int64_t row = p.prefix + (slot - text) / in_row * p.width;
  const int64_t x = (slot - text) % in_row * rows;
  return {row + x, row + at_most(x + rows, p.width)};
}

// Slots a sample and head.
inline int64_t slots_of(const Policy& p, const Extents& e, int64_t rows) {
  const int64_t windows = divided_up(e.queries, rows);
  if (p.kind == PolicyKind::block_map) return windows + p.row_blocks;
  if (p.kind == PolicyKind::disc) return divided_up(p.prefix, rows) + p.height * divided_up(p.width, rows);
  return windows;
}

// What a block works on: blocks of one head are neighbours, and the long rows of a causal mask come first. Kernels keep
// it in shared memory: held in registers, what every policy could derive from it would be, too.
struct QueryTask {
  int64_t b, h, group;
  TileRows tile;
};

__device__ __forceinline__ QueryTask task_at(const Policy& policy, const Shape& shape, int64_t head, int64_t slot,
                                             int64_t rows) {
  QueryTask task;
  task.b = head / shape.heads;
  task.h = head % shape.heads;
  task.group = task.h / (shape.heads / shape.groups);
  TK_POLICY_SWITCH(policy.kind, P, {
    const P of_head(policy, shape.extents, task.b, task.h);
    task.tile = tile_of(of_head, shape.extents, slot, rows);
  })
  return task;
}

__device__ __forceinline__ QueryTask query_task(const Policy& policy, const Shape& shape, int64_t slots, int64_t rows) {
  return task_at(policy, shape, blockIdx.x / slots, slots - 1 - blockIdx.x % slots, rows);
}

}  // namespace tk::attention::gpu
