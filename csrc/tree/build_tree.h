// SPDX-License-Identifier: Apache-2.0
// build_tree: draft tokens along a tree, from a table of what followed each token before.
//   tokens[b, 0] = root[b]        tokens[b, i] = adjacency[tokens[b, parents[i]], rank[i]]
//
//   adjacency  (V, K)           int64 or int32; rows contiguous, any outer stride
//   root       (B)              int64, contiguous, in [0, V)
//   parents    (T) or (B, T)    int64, contiguous; -1 for node 0 and behind the last node
//   rank       (T) or (B, T)    int64, contiguous, in [0, K); or null: how many smaller children the parent has
//   tokens     (B, T)           int64, contiguous; -1 behind the last node
//
// The caller checks trees, ranks and, on the host, every token on the way. On a device a token or a rank that is out of
// range is answered by -1, and so is every node below.
#pragma once
#include "core/op.h"
#include "tree/parents.h"

namespace tk::tree {

struct BuildTreeArgs {
  const void* adjacency;
  const int64_t* root;
  Parents parents;
  const int64_t* rank;  // or null
  int64_t* tokens;
  bool wide;                                        // int64
  int64_t vocabulary, candidates, batch, nodes;     // V, K, B, T
  int64_t adjacency_row_stride, rank_batch_stride;  // in elements
};

// What followed a token; -1 where token or rank is out of range.
TK_INLINE int64_t follower(const BuildTreeArgs& a, int64_t token, int64_t rank) {
  if (token < 0 || token >= a.vocabulary || rank < 0 || rank >= a.candidates) return -1;
  const int64_t at = token * a.adjacency_row_stride + rank;
  return a.wide ? static_cast<const int64_t*>(a.adjacency)[at] : static_cast<const int32_t*>(a.adjacency)[at];
}

TK_DECLARE_OP(build_tree, BuildTreeArgs)

}  // namespace tk::tree
