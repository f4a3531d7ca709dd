// SPDX-License-Identifier: Apache-2.0
// One block a sequence: all of its threads take the same walk and share the work on every row.
#pragma once
#include "core/gpu.cuh"
#include "tree/mass_rows.cuh"
#include "tree/verify_stochastic.h"
#include "tree/verify_walk.h"

namespace tk::tree::gpu {

// What is known of a node by whose path every token was kept.
struct KeptNode {
  int64_t depth;  // -1: its path was not kept
  double score;
};

template <class T>
struct BlockMachine {
  const VerifyStochasticArgs& a;
  int64_t b;
  const int64_t* parents;
  BlockRow p, q, spare;
  KeptNode* kept;

  __device__ __forceinline__ int64_t next_child(int64_t node, int64_t from) const {
    for (int64_t first = from; first < a.nodes; first += 32) {
      const int64_t own = first + threadIdx.x % 32;
      const unsigned found = __ballot_sync(kAllLanes, own < a.nodes && parents[own] == node);
      if (found != 0) return first + __ffs(static_cast<int>(found)) - 1;
    }
    return a.nodes;
  }
  __device__ __forceinline__ bool read_target(int64_t node) {
    const T* row = static_cast<const T*>(a.target) + b * a.target_batch_stride + node * a.target_row_stride;
    return read_row(row, a.width, a.slack, &p);
  }
  __device__ __forceinline__ bool read_draft(int64_t node) {
    if (node >= a.draft_rows) return false;
    const T* row = static_cast<const T*>(a.draft) + b * a.draft_batch_stride + node * a.draft_row_stride;
    return read_row(row, a.width, a.slack, &q);
  }
  __device__ __forceinline__ float p_scale() const { return p.scale; }
  __device__ __forceinline__ float p_item(int64_t x) const { return p.items[x]; }
  __device__ __forceinline__ double p_share(int64_t x) const { return scaled(p.items[x], p.scale); }
  __device__ __forceinline__ double q_share(int64_t x) const { return scaled(q.items[x], q.scale); }
  __device__ __forceinline__ void subtract() {
    if (!subtract_row(p, q, a.width, &spare)) return;
    const BlockRow before = p;
    p = spare;
    spare = before;
  }
  __device__ __forceinline__ void remove_from_p(int64_t x) { remove_item(&p, x); }
  __device__ __forceinline__ bool remove_from_q(int64_t x) { return remove_item(&q, x); }
  __device__ __forceinline__ int64_t draw(float u) const { return draw_item(p, a.width, u); }
  __device__ __forceinline__ double spread() const { return spread_of(entropy_units(p, a.width)); }
  __device__ __forceinline__ void set_path(int64_t t, int64_t node) {
    if (threadIdx.x == 0) a.path[b * a.nodes + t] = node;
  }
  __device__ __forceinline__ int64_t depth(int64_t node) const { return kept[node].depth; }
  __device__ __forceinline__ double score(int64_t node) const { return kept[node].score; }
  __device__ __forceinline__ void keep(int64_t node, int64_t depth, double score) {
    if (threadIdx.x == 0) kept[node] = {depth, score};
  }
  __device__ __forceinline__ void settle() { __syncthreads(); }
};

template <class T>
__global__ void __launch_bounds__(kMassThreads, 1)
    verify_stochastic_kernel(VerifyStochasticArgs a, float* rows, KeptNode* kept) {
  const int64_t b = blockIdx.x;
  const int64_t last = kept_rows(a.rule) - 1;
  float* own = rows + b * (last + 1) * a.width;
  BlockMachine<T> m{a,
                    b,
                    a.parents.nodes + b * a.parents.batch_stride,
                    {own, 0, 0.0f},
                    {own + last / 2 * a.width, 0, 0.0f},
                    {own + last * a.width, 0, 0.0f},
                    kept + b * a.nodes};
  if (a.rule == Rule::typical) {
    for (int64_t i = threadIdx.x; i < a.nodes; i += blockDim.x) m.kept[i] = {i == 0 ? 0 : -1, 0.0};
    __syncthreads();
  }
  const Walk walk = walk_tree(a, b, m);
  __syncthreads();
  if (threadIdx.x == 0) {
    a.accepted[b] = walk.accepted;
    a.bonus[b] = walk.bonus;
  }
  const int64_t length = walk.accepted < 0 ? 0 : walk.accepted + 1;
  for (int64_t t = length + threadIdx.x; t < a.nodes; t += blockDim.x) a.path[b * a.nodes + t] = -1;
}

}  // namespace tk::tree::gpu
