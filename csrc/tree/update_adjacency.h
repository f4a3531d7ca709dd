// SPDX-License-Identifier: Apache-2.0
// update_adjacency: adjacency[tokens[n], :] = candidates[n, :], in place, for every node n of every sequence. Of nodes
// with one token the last wins; token -1 belongs to no node.
//
//   adjacency   (V, K)  int64 or int32; rows contiguous, any outer stride
//   tokens      (N)     int64, contiguous, in [-1, V): N = B T, sequence after sequence
//   candidates  (N, K)  int64, contiguous, in [0, V)
//
// The caller checks both on the host; on a device a token out of range is skipped.
#pragma once
#include "core/op.h"

namespace tk::tree {

struct UpdateAdjacencyArgs {
  void* adjacency;
  const int64_t* tokens;
  const int64_t* candidates;
  bool wide;                         // int64
  int64_t vocabulary, count, nodes;  // V, K, N
  int64_t adjacency_row_stride;      // in elements
};

TK_INLINE void write_candidate(const UpdateAdjacencyArgs& a, int64_t node, int64_t k) {
  const int64_t at = a.tokens[node] * a.adjacency_row_stride + k;
  const int64_t candidate = a.candidates[node * a.count + k];
  if (a.wide) {
    static_cast<int64_t*>(a.adjacency)[at] = candidate;
  } else {
    static_cast<int32_t*>(a.adjacency)[at] = static_cast<int32_t>(candidate);
  }
}

TK_DECLARE_OP(update_adjacency, UpdateAdjacencyArgs)

}  // namespace tk::tree
