// SPDX-License-Identifier: Apache-2.0
// tree_attention: every node of a tree of draft tokens attends to the prefix of its sequence, to its ancestors and to
// itself,
//   o[b,h,i] = sum_j p_ij v[b,g,j],  p_ij = exp(s_ij - lse[b,h,i]),  s_ij = scale * <q[b,h,i], k[b,g,j]>,
//   lse[b,h,i] = log sum_j exp(s_ij),  g = h / (H / G),
// over the rows j of the cache: the prefix, j < lengths[b], and lengths[b] + n for n = i and every ancestor n of i.
//
//   q        (B, H, T, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   k, v     (B, G, S, D)  dtype of q, any outer strides; H is a multiple of G
//            (P, G, R, D)  with pages: row j of sequence b is row j % R of page pages[b, j / R]
//   pages    (B, M)        int64, contiguous, or null
//   lengths  (B)           int64, contiguous, or null: `length` for every sequence
//   parents  (T) or (B,T)  int64: -1 for node 0, a smaller node for every other, then -1 for padding
//   out      (B, H, T, D)  dtype of q, contiguous
//   lse      (B, H, T)     float32, contiguous, or null
//
// Sums are kept in float32 or better, and the running maximum keeps logits of any finite size safe. A padded node gets
// zeros and lse = -inf, and so does a node whose scores are all -inf; the query and the rows of a padded node are never
// read, nor are pages without a row in use. A NaN reaches the nodes that see its row, and no others.
// Half precision: scores in float32; the weights of the second product may be rounded to the dtype.
#pragma once
#include "core/head_row.h"
#include "core/op.h"
#include "tree/parents.h"

namespace tk::tree {

// One addressing rule: a contiguous cache is one page of S rows a sequence.
struct PageTable {
  const int64_t* pages;  // null: page b
  int64_t per_sequence;  // M
  int64_t rows;          // of a page
  int64_t count;         // P, pages of the cache
};

struct TreeAttentionArgs {
  HeadRows q, k, v;  // batch_stride of k and v is that of pages
  PageTable table;
  const int64_t* lengths;
  int64_t length;
  Parents parents;
  void* out;
  float* lse;
  DType dtype;
  int64_t batch, heads, groups, nodes, width;  // B, H, G, T, D
  double scale;
};

TK_INLINE int64_t prefix_length(const TreeAttentionArgs& a, int64_t b) { return a.lengths ? a.lengths[b] : a.length; }

// Nodes before the padding.
TK_INLINE int64_t count_nodes(const TreeAttentionArgs& a, int64_t b) {
  const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
  int64_t nodes = 1;
  while (nodes < a.nodes && parents[nodes] >= 0) ++nodes;
  return nodes;
}

// Where row j of sequence b begins in the cache of one head.
TK_INLINE int64_t cache_offset(const HeadRows& cache, const PageTable& table, int64_t b, int64_t j) {
  const int64_t page = table.pages ? table.pages[b * table.per_sequence + j / table.rows] : b;
  return page * cache.batch_stride + j % table.rows * cache.row_stride;
}

TK_DECLARE_OP(tree_attention, TreeAttentionArgs)

}  // namespace tk::tree
