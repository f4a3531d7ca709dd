// SPDX-License-Identifier: Apache-2.0
// pq_encode: for every part of a row its nearest centroid by squared distance, by the rules of nearest.
//
//   search  books are the parts: x (M, N, d) is a view of (N, M d), codes (M, K, d); see quantize/code_search.h
//   codes   (N, M)  uint8 (K at most 256) or int64, contiguous
//
// Equally near centroids: the lowest index. A part of a row that is not finite has code 0.
#pragma once
#include "core/op.h"
#include "quantize/code_search.h"

namespace tk::quantize {

struct PqEncodeArgs {
  CodeSearch search;
  void* codes;
  bool bytes;  // codes are uint8
};

// Rows that are searched at once, so that what nearest answers stays small.
constexpr int64_t kPqEncodeRows = 1 << 14;

TK_INLINE int64_t pq_encode_rows(const PqEncodeArgs& a, int64_t begin) {
  return a.search.rows - begin < kPqEncodeRows ? a.search.rows - begin : kPqEncodeRows;
}

// The search of the rows [begin, begin + pq_encode_rows).
TK_INLINE CodeSearch pq_encode_search(const PqEncodeArgs& a, int64_t begin) {
  CodeSearch part = a.search;
  part.rows = pq_encode_rows(a, begin);
  part.x = static_cast<const char*>(a.search.x) +
           begin * a.search.x_row_stride * static_cast<int64_t>(item_size(a.search.dtype));
  return part;
}

TK_DECLARE_OP(pq_encode, PqEncodeArgs)

}  // namespace tk::quantize
