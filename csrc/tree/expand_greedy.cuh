// SPDX-License-Identifier: Apache-2.0
// One warp a tree. By budget, the lanes look for the largest pending draw, one place a node; by threshold, each lane
// counts the draws of a node of the level, and a scan says where its children go.
#pragma once
#include "core/gpu.cuh"
#include "tree/expand_walk.h"

namespace tk::tree::gpu {

// What is known of a node besides the answer, in shared memory.
struct NodeState {
  uint64_t pending;  // kNoDraw: none
  int32_t depth, drawn;
};

__device__ __forceinline__ uint64_t largest_pending(const NodeState* nodes, int64_t count) {
  uint64_t best = kNoDraw;
  for (int64_t i = threadIdx.x; i < count; i += 32) best = nodes[i].pending > best ? nodes[i].pending : best;
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, lanes);
    best = other > best ? other : best;
  }
  return best;
}

// By one lane.
__device__ __forceinline__ void add_node(const ExpandGreedyArgs& a, int64_t first, NodeState* nodes, int64_t node,
                                         int64_t child, int32_t rank, float value) {
  a.parents[first + child] = node;
  a.rank[first + child] = rank;
  a.value[first + child] = value;
  nodes[child] = NodeState{kNoDraw, nodes[node].depth + 1, 0};
}

// Returns the nodes of the tree, the same in every lane.
__device__ __forceinline__ int64_t search_by_budget(const ExpandGreedyArgs& a, int64_t first, NodeState* nodes) {
  int64_t count = 1;
  if (threadIdx.x == 0) nodes[0] = NodeState{a.max_depth > 0 ? pending_draw(1.0f, 0) : kNoDraw, 0, 0};
  __syncwarp();
  while (count <= a.budget) {
    const uint64_t draw = largest_pending(nodes, count);
    if (draw == kNoDraw) break;
    const int64_t node = draw_node(draw_pushed(draw), a.parents + first);
    const bool known = a.known[first + node] != 0;
    const int32_t rank = nodes[node].drawn;
    const float p = known ? draw_chance(a, first + node, rank) : 0.0f;
    const int64_t child = count;
    __syncwarp();
    if (threadIdx.x == 0) {
      const float value = draw_value(draw);
      nodes[node].pending = p > 0.0f ? pending_draw(value * (1.0f - p), 2 * child - 1) : kNoDraw;
      nodes[node].drawn = rank + 1;
      if (!known) a.wanted[first + node] = 1;
      if (p > 0.0f) {
        add_node(a, first, nodes, node, child, rank, value * p);
        if (nodes[child].depth < a.max_depth) nodes[child].pending = pending_draw(value * p, 2 * child);
      }
    }
    __syncwarp();
    if (!known) break;
    count += p > 0.0f;
  }
  return count;
}

// How often a node draws, at most `room` times.
__device__ __forceinline__ int count_draws(const ExpandGreedyArgs& a, int64_t node_of_batch, int64_t room) {
  float value = a.value[node_of_batch];
  int draws = 0;
  while (value >= a.threshold && draws < room) {
    const float p = draw_chance(a, node_of_batch, draws);
    if (p == 0.0f) break;
    value *= 1.0f - p;
    ++draws;
  }
  return draws;
}

__device__ __forceinline__ bool wants_rows(const ExpandGreedyArgs& a, int64_t first, int64_t begin, int64_t end) {
  bool any = false;
  for (int64_t i = begin + threadIdx.x; i < end; i += 32) {
    const bool wanted = a.value[first + i] >= a.threshold && !a.known[first + i];
    a.wanted[first + i] = wanted;
    any |= wanted;
  }
  return __any_sync(kAllLanes, any);
}

// The draws of up to 32 nodes of a level; returns the nodes of the tree.
__device__ __forceinline__ int64_t draw_of_lanes(const ExpandGreedyArgs& a, int64_t first, int64_t node, bool active,
                                                 int64_t count) {
  const int draws = active ? count_draws(a, first + node, a.nodes - count) : 0;
  int through = draws;  // of this lane and those before
  for (unsigned step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(kAllLanes, through, step);
    if (threadIdx.x >= step) through += before;
  }
  float value = active ? a.value[first + node] : 0.0f;
  int64_t child = count + through - draws;
  for (int rank = 0; rank < draws && child < a.nodes; ++rank, ++child) {
    const float p = draw_chance(a, first + node, rank);
    a.parents[first + child] = node;
    a.rank[first + child] = rank;
    a.value[first + child] = value * p;
    value *= 1.0f - p;
  }
  const int64_t all = count + __shfl_sync(kAllLanes, through, 31);
  return all < a.nodes ? all : a.nodes;
}

__device__ __forceinline__ int64_t search_by_threshold(const ExpandGreedyArgs& a, int64_t first) {
  int64_t count = 1;
  int64_t begin = 0;
  for (int64_t depth = 0; depth < a.max_depth && begin < count && count < a.nodes; ++depth) {
    const int64_t end = count;
    if (wants_rows(a, first, begin, end)) break;
    for (int64_t i = begin; i < end; i += 32) {
      count = draw_of_lanes(a, first, i + threadIdx.x, i + threadIdx.x < end, count);
    }
    __syncwarp();
    begin = end;
  }
  return count;
}

template <bool kByBudget>
__global__ void __launch_bounds__(32) expand_greedy_kernel(ExpandGreedyArgs a) {
  TK_DYNAMIC_SHARED(NodeState, nodes);
  const int64_t first = blockIdx.x * a.nodes;
  for (int64_t i = threadIdx.x; i < a.nodes; i += 32) write_blank(a, i, first + i);
  __syncwarp();
  const int64_t count = kByBudget ? search_by_budget(a, first, nodes) : search_by_threshold(a, first);
  if (threadIdx.x == 0) a.count[blockIdx.x] = count;
}

}  // namespace tk::tree::gpu
