// SPDX-License-Identifier: Apache-2.0
// expand_greedy: the draft tree that a greedy search over tables of draws finds. A pending draw is the next one at a
// node; its value is the estimated probability that verification reaches it. With p = draw_p of the r-th draw at node
// i, a draw of value v makes a new node c, the child of i with rank r and value v p, and leaves two draws pending:
//   the next one at i, of value v (1 - p);    the first one at c, of value v p
// The root is node 0, value 1, and so is its first draw; nodes are numbered as they are drawn.
//
// By budget: always the draw of largest value next, the earliest pending among equals, until `budget` nodes are drawn.
// The first such draw at a node that is not known ends the search; that node is wanted.
// By threshold: level by level, nodes in order, each as long as v >= threshold, until M nodes exist. A level with a
// node that is not known and would draw ends the search before any draw of that level; all such nodes are wanted.
// Either way a draw does not happen where its p is 0 (no mass is left), where r = K, or at a node max_depth deep.
//
//   draw_p  (B, M, K)  float32, contiguous: p of the draws at every node; NaN counts as 0, more than 1 as 1
//   known   (B, M)     0: row i of draw_p says nothing yet, and is not read
//   parents, rank (B, M)  int64: -1 and 0 for the root, -1 and -1 from `count` on
//   value   (B, M)     float32: 1 for the root, v p for the others, 0 from `count` on
//   count   (B)        int64: nodes of the tree, at least 1
//   wanted  (B, M)     1: the search stopped for want of this node's row
//
// What a known row adds never changes the nodes found without it: the tree only grows.
#pragma once
#include "core/op.h"

namespace tk::tree {

constexpr int64_t kMostExpanded = 4096;  // M

struct ExpandGreedyArgs {
  const float* draw_p;
  const uint8_t* known;
  int64_t *parents, *rank;
  float* value;
  int64_t* count;
  uint8_t* wanted;
  int64_t batch, nodes, draws;  // B, M, K
  int64_t budget;               // -1: by threshold
  int64_t max_depth;
  float threshold;
};

TK_INLINE float draw_chance(const ExpandGreedyArgs& a, int64_t node_of_batch, int64_t rank) {
  if (rank >= a.draws) return 0.0f;
  const float p = a.draw_p[node_of_batch * a.draws + rank];
  return p > 0.0f ? (p < 1.0f ? p : 1.0f) : 0.0f;
}

TK_DECLARE_OP(expand_greedy, ExpandGreedyArgs)

}  // namespace tk::tree
