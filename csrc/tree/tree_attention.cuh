// SPDX-License-Identifier: Apache-2.0
// tree_attention on a device, in the manner of flash decoding: a block a tile of rows and a split of the cache
// (tree_tile.cuh), the running softmax of attention inside (attention_mma.cuh, attention_fma.cuh), and a second kernel
// that joins the splits in their order (merge_attention.cuh).
//
// Per sequence and head of keys a call has to read 2 (P + T) D items and to do 4 (H / G) T (P + T) D operations: in
// bfloat16 (H / G) T operations a byte. Below some 295 rows a head of keys an H100 waits for memory, so the floor of a
// verification is the time to read the cache: 17 MB, 5 microseconds, for 8 heads of 4096 rows of width 128. Splits add
// 2 rows D float32 each; the least split (256 cache rows for up to 16 rows, 1024 for tiles of 64) keeps that below an
// eighth of what it reads.
//
// Width 128 in half precision, on sm_90: up to 16 rows 144 registers and 74 KB of shared memory, so 3 blocks of 4 warps
// a multiprocessor, with 32 KB each on their way; tiles of 64 rows 175 registers and 88 KB, so 2 blocks. None spills.
#pragma once
#include "attention/attention_fma.cuh"
#include "attention/attention_mma.cuh"
#include "tree/merge_attention.cuh"
#include "tree/tree_steps.cuh"

namespace tk::tree::gpu {

// Walks over the steps of a split. The rows of queries may still be on their way when the loop begins.
template <class Tile, class Rows>
__device__ __forceinline__ void walk_steps(const TreeAttentionArgs& a, const TreeTask& task, bool wide, int above,
                                           typename Tile::Item* buffer, TreeStep<Tile>* steps, Rows& rows) {
  using T = typename Tile::Item;
  const attention::gpu::StepBuffers<Tile> buffers{buffer};
  const RowSource<T> k = rows_anywhere<T>(a.k.data, task.group * a.k.head_stride, a, wide);
  const RowSource<T> v = rows_anywhere<T>(a.v.data, task.group * a.v.head_stride, a, wide);
  const int count = static_cast<int>(divided_up(task.end - task.begin, Tile::kKeys));
  const bool visible = above >= 0;
  for (int step = 0; step < kSteps - 1; ++step) write_step(a, task, step, count, visible, above, steps[step]);
  __syncthreads();
  if (count > 0) load_step<Tile>(buffers.left(0), buffers.right(0), k, v, steps[0]);
  cp_async_commit();
  for (int step = 0, at = 0; step < count; ++step) {
    const int next = at == kSteps - 1 ? 0 : at + 1;
    const int after = next == kSteps - 1 ? 0 : next + 1;
    TreeStep<Tile>& now = steps[at];
    T* keys = buffers.left(step);
    T* values = buffers.right(step);
    cp_async_wait<0>();
    __syncthreads();
    if (step + 1 < count) load_step<Tile>(buffers.left(step + 1), buffers.right(step + 1), k, v, steps[next]);
    cp_async_commit();
    write_step(a, task, step + 2, count, visible, above, steps[after]);
    const bool partial = now.partial;
    const uint64_t seen = seen_by_lane(now);
    if (partial) {
      attention::gpu::find_strange<T, Tile::kKeys, Tile::kWidth, Tile::kThreads>(values, k.chunks, now.strange);
    }
    rows.scores(keys, values, now, seen, !partial);
    if (partial) __syncthreads();
    rows.add(keys, values, now, seen);
    at = next;
  }
  cp_async_wait<0>();
}

// Joins what the warps that share rows have found, and writes numbers [column, column + 4) of a row.
template <class Tile, class Out>
__device__ __forceinline__ void write_numbers(const float* sums, const SoftRow* soft, const TreeRow& row, int column,
                                              int width, Out* out, float* lse) {
  SoftRow whole{-kInfinity, 0.0f};
#pragma unroll
  for (int w = 0; w < Tile::kKeyWarps; ++w) whole.largest = fmaxf(whole.largest, soft[w * Tile::kWarpRows].largest);
  float mixed[4] = {};
#pragma unroll
  for (int w = 0; w < Tile::kKeyWarps; ++w) {
    const SoftRow part = soft[w * Tile::kWarpRows];
    const float factor = exp2f(part.largest - attention::gpu::base_of(whole.largest));
    whole.sum = fmaf(part.sum, factor, whole.sum);
    const auto numbers = attention::gpu::chunk_at(sums + w * Tile::kWarpRows * Tile::kPitch + column);
#pragma unroll
    for (int e = 0; e < 4; ++e) mixed[e] = fmaf(numbers.item[e], factor, mixed[e]);
  }
  if (row.query < 0) whole.sum = 0.0f;
  const attention::gpu::RowAnswer answer = attention::gpu::finished(whole, 0.0f);
  if (lse && column == 0) lse[row.answer] = answer.lse;
  Out* to = out + row.answer * width + column;
  MergeChunk<Out, 4> chunk;
#pragma unroll
  for (int e = 0; e < 4; ++e) chunk.item[e] = from_float<Out>(whole.sum == 0.0f ? 0.0f : mixed[e] * answer.factor);
  if (width % 4 == 0) {
    *reinterpret_cast<MergeChunk<Out, 4>*>(to) = chunk;
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (column + e < width) to[e] = chunk.item[e];
  }
}

template <class Tile, class Out>
__device__ __forceinline__ void write_rows(const float* sums, const SoftRow* soft, const TreeRow* rows, int count,
                                           int width, Out* out, float* lse) {
  const int chunks = (width + 3) / 4;
  for (int u = threadIdx.x; u < count * chunks; u += Tile::kThreads) {
    const int row = u / chunks;
    const int slot = row / Tile::kWarpRows * Tile::kKeyWarps * Tile::kWarpRows + row % Tile::kWarpRows;
    write_numbers<Tile>(sums + slot * Tile::kPitch, soft + slot, rows[row], u % chunks * 4, width, out, lse);
  }
}

template <class Tile, class Rows>
__device__ __forceinline__ void attend_split(const TreeAttentionArgs& a, const TreePlan& plan, const TreeParts& parts,
                                             typename Tile::Item* shared) {
  using T = typename Tile::Item;
  TK_SHARED(task, TreeTask);
  TK_SHARED(steps, TreeStep<Tile>[kSteps]);
  TK_SHARED(found, TreeRow[Tile::kRows]);
  TK_SHARED(soft, SoftRow[Tile::kRows * Tile::kKeyWarps]);
  const int thread = threadIdx.x;
  if (thread == 0) task = task_of_block(a, plan, Tile::kRows);
  __syncthreads();
  int node = -1;
  if (thread < Tile::kRows) {
    node = find_row(a, plan, task, thread, found[thread]);
  }
  int last = node;
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const int other = __shfl_xor_sync(kAllLanes, last, lanes);
    last = other > last ? other : last;
  }
  if (thread % 32 == 0 && last >= 0) atomicMax(&task.last, last);
  __syncthreads();
  if (thread == 0) cut_split(a, plan, Tile::kKeys, task);
  __syncthreads();
  const int64_t answers = a.batch * a.heads * a.nodes;
  float* lses = parts.outs ? parts.lses + task.split * answers : a.lse;
  if (parts.outs && task.begin == task.end) {  // weighs nothing, whatever the workspace holds
    if (thread < task.rows) lses[found[thread].answer] = -kInfinity;
    return;
  }
  load_queries<Tile>(shared, rows_anywhere<T>(a.q.data, 0, a, plan.wide), found);
  Rows rows;
  rows.start(shared, task.rows, a.scale, a.width, false);
  walk_steps<Tile>(a, task, plan.wide, node, shared + Tile::kRows * Tile::kWidth, steps, rows);
  __syncthreads();
  auto* sums = reinterpret_cast<float*>(shared);
  const int slot = thread / 32 * Tile::kWarpRows;
  rows.lay_down(sums + slot * Tile::kPitch, Tile::kPitch, soft + slot);
  __syncthreads();
  const auto count = static_cast<int>(task.rows);
  const auto width = static_cast<int>(a.width);
  if (parts.outs) {
    write_rows<Tile>(sums, soft, found, count, width, parts.outs + task.split * answers * width, lses);
  } else {
    write_rows<Tile>(sums, soft, found, count, width, static_cast<T*>(a.out), lses);
  }
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    tree_attention_mma_kernel(TreeAttentionArgs a, TreePlan plan, TreeParts parts) {
  TK_DYNAMIC_SHARED(typename Tile::Item, shared);
  attend_split<Tile, attention::gpu::MmaRows<Tile>>(a, plan, parts, shared);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    tree_attention_fma_kernel(TreeAttentionArgs a, TreePlan plan, TreeParts parts) {
  TK_DYNAMIC_SHARED(float, shared);
  attend_split<Tile, attention::gpu::FmaRows<Tile>>(a, plan, parts, shared);
}

}  // namespace tk::tree::gpu
