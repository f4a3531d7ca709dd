// SPDX-License-Identifier: Apache-2.0
// compact_cache: the rows of an accepted path become neighbours, in place. With n_b the entries of path_b before its
// first -1, for every layer l, sequence b, group g and t < n_b:
//   cache[l, b, g, lengths_b + t, :] = cache[l, b, g, lengths_b + path_bt, :]        new_lengths_b = lengths_b + n_b
// as if every row were read before any is written.
//
//   cache        (L, B, G, S, D), or paged (L, P, G, R, D)  float32, float16 or bfloat16; rows contiguous, any outer
//                strides without overlap. Row j of sequence b is row j % R of page pages[b, j / R].
//   pages        (B, M)  int64, contiguous, in [0, P); or null, for cache (L, B, G, S, D)
//   lengths      (B)     int64;  path (B, A) int64, rising, -1 only at its end;  both contiguous
//   new_lengths  (B)     int64
//
// Rows are copied bit for bit. No row below lengths_b is touched, none outside the path is read. The caller checks, on
// the host, that every named row exists and that no page is shared where one is written. On a device a row outside the
// cache is neither read nor written.
//
// A path rises, so path_bt >= t: a row is written only after everything that reads it came before or comes with it.
#pragma once
#include "core/op.h"

namespace tk::tree {

struct CompactCacheArgs {
  void* cache;
  const int64_t* lengths;
  const int64_t* path;
  const int64_t* pages;  // or null
  int64_t* new_lengths;
  DType dtype;
  int64_t layers, batch, groups, nodes, width;                  // L, B, G, A, D
  int64_t page_count, page_rows, table;                         // P, R, M; without pages B, S, 1
  int64_t layer_stride, page_stride, group_stride, row_stride;  // in elements
};

// Where row j of sequence b begins in a group of a layer, in elements; -1 outside the cache.
TK_INLINE int64_t cache_row(const CompactCacheArgs& a, int64_t b, int64_t j) {
  if (j < 0 || j >= a.table * a.page_rows) return -1;
  const int64_t page = a.pages ? a.pages[b * a.table + j / a.page_rows] : b;
  if (page < 0 || page >= a.page_count) return -1;
  return page * a.page_stride + j % a.page_rows * a.row_stride;
}

// How many nodes the path of sequence b has.
TK_INLINE int64_t path_nodes(const CompactCacheArgs& a, int64_t b) {
  int64_t n = 0;
  while (n < a.nodes && a.path[b * a.nodes + n] >= 0) ++n;
  return n;
}

TK_DECLARE_OP(compact_cache, CompactCacheArgs)

}  // namespace tk::tree
