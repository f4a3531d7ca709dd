// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention_backward share. No sum is split between blocks: a tile of queries owns their gradients,
// a tile of keys owns those of keys and values, and computes the map a second time.
#pragma once
#include "attention/query_walk.cuh"

namespace tk::attention::gpu {

// float32 rows of 256 leave room for 32 of a tile only. Keys and values have rows of up to 128 columns of an answer:
// wider ones are cut into parts, and the map computed for each.
template <class T, int kWidthOfRows>
struct BackwardTile {
  using Item = T;
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kWidth = kWidthOfRows;
  static constexpr int kRows = !kHalf && kWidth > 128 ? 32 : 64;
  static constexpr int kThreads = 2 * kRows;
  static constexpr int kKeys = kHalf ? (kWidth > 64 ? 32 : 64) : (kWidth > 64 ? 16 : 32);  // or queries, of a step
  static constexpr int kColumns = kWidth > 128 ? 128 : kWidth;
  static constexpr int kParts = kWidth / kColumns;
  static constexpr size_t kRowItems = (2 * kRows + 4 * kKeys) * kWidth;
  static constexpr size_t kWeightItems = kHalf ? 0 : kRows * (kKeys + 8);
  static constexpr size_t kQueryBytes = (kRowItems + kWeightItems) * sizeof(T);
  static constexpr size_t kKeyBytes = (kRowItems + 2 * kWeightItems) * sizeof(T);
};

// What a launch of the gradient computes with, all of it in the workspace.
struct BackwardScratch {
  float* centre;    // (B, H, Nq)
  float* key_bias;  // (B, H, Nk): gradients a sample and head, or null
  Meetings meetings;
};

constexpr int kRowThreads = 128;

template <class T>
TK_INLINE const T* row_at(const HeadRows& x, int64_t b, int64_t h, int64_t i) {
  return static_cast<const T*>(x.data) + b * x.batch_stride + h * x.head_stride + i * x.row_stride;
}

// One warp a query.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    attention_centres_kernel(HeadRows grad, HeadRows out, const float* grad_lse, Shape shape, float* centre,
                             int64_t total) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * kRowThreads + threadIdx.x) / 32;
  if (row >= total) return;
  const int64_t i = row % shape.extents.queries;
  const int64_t head = row / shape.extents.queries;
  const T* g = row_at<T>(grad, head / shape.heads, head % shape.heads, i);
  const T* o = row_at<T>(out, head / shape.heads, head % shape.heads, i);
  float sum = 0.0f;
  for (int64_t d = lane; d < shape.width; d += 32) sum = fmaf(to_float(g[d]), to_float(o[d]), sum);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (lane == 0) centre[row] = sum - (grad_lse ? grad_lse[row] : 0.0f);
}

template <class Unused>
__global__ void __launch_bounds__(kRowThreads) clear_meetings_kernel(unsigned* words, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  if (i < count) words[i] = 0;
}

// Sums the gradients of a bias over the samples and heads that share it.
template <class Unused>
__global__ void __launch_bounds__(kRowThreads)
    attention_bias_kernel(const float* parts, Shape shape, int64_t bias_batch, int64_t bias_heads, float* to) {
  const int64_t at = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  const int64_t keys = shape.extents.keys;
  if (at >= bias_batch * bias_heads * keys) return;
  const int64_t u = at / keys / bias_heads;
  const int64_t v = at / keys % bias_heads;
  float sum = 0.0f;
  for (int64_t b = u; b < shape.batch; b += bias_batch) {
    for (int64_t h = v; h < shape.heads; h += bias_heads) sum += parts[(b * shape.heads + h) * keys + at % keys];
  }
  to[at] = sum;
}

__device__ __forceinline__ KeyTask key_task(const Shape& shape, int parts, int rows) {
  KeyTask task;
  const int64_t blocks = divided_up(shape.extents.keys, rows);
  const int64_t at = blockIdx.x / parts;
  task.part = static_cast<int>(blockIdx.x % parts);
  task.heads = shape.heads / shape.groups;
  task.group = at / blocks % shape.groups;
  task.b = at / blocks / shape.groups;
  task.first_head = task.group * task.heads;
  const int64_t begin = at % blocks * rows;
  task.keys = {begin, at_most(begin + rows, shape.extents.keys)};
  task.key_block = begin / kMeetKeys;
  return task;
}

// The loop over the queries that see a tile of keys. `Rows` holds the answer so far:
//   turn_to(head)                        the next step is of that head, or the last one (-1) is over
//   scores(queries, grads, list, plain)  weights of one step, and gradients of its scores
//   add(queries, grads, list, plain)     their products; in steps with hidden pairs, list.strange marks queries that a
//                                        weight of zero would not hide
template <class Tile, class Rows>
__device__ __forceinline__ void attend_back(const AttentionBackwardArgs& a, const BackwardScratch& scratch,
                                            const KeyTask& task, bool wide, typename Tile::Item* steps,
                                            QueryList<Tile::kKeys>* lists, QueryWalk& walk, Rows& rows) {
  using T = typename Tile::Item;
  constexpr int kStep = Tile::kKeys;
  const StepBuffers<Tile> buffers{steps};
  const QueryFacts facts{static_cast<const float*>(a.lse), scratch.centre};
  const bool walker = threadIdx.x < 32;
  if (walker) {
    if (threadIdx.x == 0) begin_walk(walk);
    __syncwarp();
    write_list(a.policy, a.shape, task, scratch.meetings, facts, walk, lists[0]);
    __syncwarp();
    write_list(a.policy, a.shape, task, scratch.meetings, facts, walk, lists[1]);
  }
  __syncthreads();
  for (int step = -1, at = kLists - 1; step < 0 || lists[at].count > 0; ++step) {
    const int next = at == kLists - 1 ? 0 : at + 1;
    const int after = next == kLists - 1 ? 0 : next + 1;
    if (step >= 0) {
      cp_async_wait<0>();
      __syncthreads();
    }
    if (lists[next].count > 0) {
      const int64_t head = lists[next].head;
      const RowSource<T> q = row_source<T>(a.q, task.b, head, a.shape.width, wide);
      const RowSource<T> g = row_source<T>(a.grad, task.b, head, a.shape.width, wide);
      load_listed<T, kStep, Tile::kWidth, Tile::kThreads>(buffers.left(step + 1), buffers.right(step + 1), q, g,
                                                          lists[next].query);
      write_seen<kStep, Tile::kThreads>(a.policy, a.shape, task, a.key_bias, lists[next]);
    }
    cp_async_commit();
    if (step >= 0) {
      QueryList<kStep>& now = lists[at];
      T* queries = buffers.left(step);
      T* grads = buffers.right(step);
      if (walker) write_list(a.policy, a.shape, task, scratch.meetings, facts, walk, lists[after]);
      const bool plain = is_plain(now);
      if (!plain) {
        const int chunks = static_cast<int>(divided_up(a.shape.width, 16) * 16 / ChunkOf<T>::kItems);
        find_strange<T, kStep, Tile::kWidth, Tile::kThreads>(queries, chunks, now.strange);
        find_strange<T, kStep, Tile::kWidth, Tile::kThreads>(grads, chunks, now.strange);
      }
      rows.turn_to(now.head, a, scratch, task);
      rows.scores(queries, grads, now, plain);
      if (!plain) __syncthreads();
      rows.add(queries, grads, now, plain);
    }
    at = next;
  }
  cp_async_wait<0>();
  rows.turn_to(-1, a, scratch, task);
}

}  // namespace tk::attention::gpu
