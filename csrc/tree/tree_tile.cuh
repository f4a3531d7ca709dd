// SPDX-License-Identifier: Apache-2.0
// What a block of tree_attention works on: a tile of query rows of one head of keys, and a split of the cache rows that
// they see. The query heads that share a head of keys put their rows together, node by node: row r of a head of keys is
// node r / (H / G) of its query head r % (H / G).
//
// Two kinds of block. Up to 16 rows: one group of 16 rows (4 of float32), whose warps part the keys of every step among
// them, so that a single row keeps all warps busy; what the rows of the product lack is filled with zeros, and the
// tensor cores have the time: at width 128, 16 x 16 keys take a warp some 600 cycles, while 64 keys and values of 256
// bytes take a multiprocessor of an H100 2200 cycles to read. More rows: tiles of 64, 16 a warp, all warps on the same
// keys. Keys and values are read from memory once a tile; tiles of one split are neighbours, and meet in the second
// cache.
#pragma once
#include "attention/attention_rows.cuh"
#include "tree/tree_attention.h"

namespace tk::tree::gpu {

using attention::at_most;
using attention::gpu::ChunkOf;
using attention::gpu::clamped;
using attention::gpu::divided_up;
using attention::gpu::low_bits;
using attention::gpu::RowSource;
using attention::gpu::SoftRow;

constexpr int64_t kFewRows = 16;

// kRowWarps groups of kWarpRowsOf rows.
template <class T, int kWidthOfRows, int kWarpRowsOf, int kRowWarps>
struct TreeTile {
  using Item = T;
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kWidth = kWidthOfRows;
  static constexpr int kWarpRows = kWarpRowsOf;
  static constexpr int kKeyWarps = kRowWarps > 1 ? 1 : kWidth > 128 ? 2 : 4;
  static constexpr int kRows = kWarpRows * kRowWarps;
  static constexpr int kThreads = 32 * kRowWarps * kKeyWarps;
  static constexpr int kKeys = kWidth > 128 ? (kHalf ? 32 : 16) : (kHalf ? 64 : 32);
  // Queries, keys and values of even and odd steps, weights of float32. In the end the answers lie in their place.
  static constexpr size_t kRowItems = (kRows + 4 * kKeys) * kWidth;
  static constexpr size_t kBytes = kRowItems * sizeof(T) + (kHalf ? 0 : kRows * (kKeys + 8) * sizeof(float));
  static constexpr int kPitch = kWidth + 8;  // of answers: four rows of eight numbers meet all banks
  static_assert(kRows * kKeyWarps * kPitch * sizeof(float) <= kBytes, "answers fit");
};

// How a call is cut. Shapes alone decide, so that the bits of an answer do not depend on a device.
struct TreePlan {
  int64_t sharing;   // H / G
  int64_t rows;      // of a head of keys
  int64_t tiles;     // of rows
  int64_t splits;    // of the cache rows
  int64_t least;     // cache rows of a split that is not the last one
  int64_t capacity;  // cache rows of a sequence
  bool wide;         // rows of q, k and v are whole, aligned chunks of 16 bytes
};

// Answers of splits, in the workspace; null with a single one.
struct TreeParts {
  float *outs, *lses;
};

struct TreeTask {
  int64_t b, group, split;
  int64_t first, rows;         // rows [first, first + rows) of the head of keys
  int64_t length, begin, end;  // the prefix; cache rows of the split
  int last;                    // the highest node of the tile, -1 where all are padding
};

struct TreeRow {
  int64_t query;   // where it begins, in elements from the array's start; -1: padding, or behind the last row
  int64_t answer;  // row of out; -1 behind the last one
};

// Splits of one sequence and head of keys are neighbours, and so are the tiles of a split.
__device__ __forceinline__ TreeTask task_of_block(const TreeAttentionArgs& a, const TreePlan& plan, int tile_rows) {
  const int64_t unit = blockIdx.x / plan.tiles;
  TreeTask task;
  task.first = blockIdx.x % plan.tiles * tile_rows;
  task.rows = at_most(tile_rows, plan.rows - task.first);
  task.split = unit % plan.splits;
  task.group = unit / plan.splits % a.groups;
  task.b = unit / plan.splits / a.groups;
  task.last = -1;
  return task;
}

// On a device nobody has looked at the parents: whatever they hold, a walk goes down and ends.
TK_INLINE int64_t parent_of(const TreeAttentionArgs& a, int64_t b, int64_t node) {
  const int64_t parent = a.parents.nodes[b * a.parents.batch_stride + node];
  return parent < node ? parent : -1;
}

// Row `row` of the task and its node, -1 for padding.
__device__ __forceinline__ int find_row(const TreeAttentionArgs& a, const TreePlan& plan, const TreeTask& task, int row,
                                        TreeRow& found) {
  found = {-1, -1};
  if (row >= task.rows) return -1;
  const auto at = static_cast<unsigned>(task.first + row);
  const auto sharing = static_cast<unsigned>(plan.sharing);
  const int64_t node = at / sharing;
  const int64_t head = task.group * plan.sharing + at % sharing;
  found.answer = (task.b * a.heads + head) * a.nodes + node;
  if (node > 0 && parent_of(a, task.b, node) < 0) return -1;
  found.query = task.b * a.q.batch_stride + head * a.q.head_stride + node * a.q.row_stride;
  return static_cast<int>(node);
}

// Which cache rows the split has, of those up to the tile's highest node. Lengths are held within the cache.
__device__ __forceinline__ void cut_split(const TreeAttentionArgs& a, const TreePlan& plan, int step_keys,
                                          TreeTask& task) {
  task.length = clamped(prefix_length(a, task.b), 0, plan.capacity);
  const int64_t all = task.last < 0 ? 0 : at_most(task.length + task.last + 1, plan.capacity);
  const int64_t share = divided_up(divided_up(all, plan.splits), step_keys) * step_keys;
  const int64_t keys = share < plan.least ? plan.least : share;
  task.begin = at_most(task.split * keys, all);
  task.end = at_most(task.begin + keys, all);
}

}  // namespace tk::tree::gpu
