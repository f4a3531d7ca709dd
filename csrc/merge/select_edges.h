// SPDX-License-Identifier: Apache-2.0
// select_edges: the best r proposals of a bipartite match become merges, and every token learns its output token.
//
//   score   (B, Na)  float32: how good row i's proposal is; null = rows are taken in ascending order
//   index   (B, Na)  int64 in [0, Nb): the column that row i proposes
//   take    (B,)     int64 in [0, r]: edges of each sample; null = r
//   valid   (B, N)   0 = padding: the token is in no list and its map is -1; null = no padding
//   a_ids   (B, Na)  tokens of the rows, b_ids (B, Nb) of the columns; null = even and odd tokens
//   unm     (B, U)   rows that stay, U = Na - r, or Na where take or valid make the count ragged
//   src     (B, R)   rows that merge, best first, R = r;  dst (B, R): their columns
//   map     (B, N)   output token of every token; -1 for a token that is in neither set or is padding
//
// Order of rows: score descending, row ascending; NaN and -inf last, as equals. With class_token row 0 is last of all
// and never merges. unm keeps this order, or is ascending where sort_unmerged. Output tokens: [unm, columns], or
// [unm[0], column 0, unm[1:], columns 1..] with distill_token. Where the count is ragged, lists are padded with -1,
// padding rows and the class token are never taken (a larger take[b] is cut down), and only valid columns count.
#pragma once
#include "core/op.h"

namespace tk::merge {

struct SelectEdgesArgs {
  const float* score;  // or null
  const int64_t* index;
  const int64_t* take;   // or null
  const uint8_t* valid;  // or null
  const int64_t* a_ids;  // or null
  const int64_t* b_ids;  // or null
  int64_t* unm;
  int64_t* src;
  int64_t* dst;
  int64_t* map;
  int64_t batch, rows, columns, tokens, edges;  // B, Na, Nb, N, r
  bool class_token, distill_token, sort_unmerged;
};

TK_DECLARE_OP(select_edges, SelectEdgesArgs)

// U, the width of unm.
TK_INLINE int64_t unmerged_width(const SelectEdgesArgs& a) { return a.rows - (a.take || a.valid ? 0 : a.edges); }

TK_INLINE int64_t row_token(const SelectEdgesArgs& a, int64_t b, int64_t row) {
  return a.a_ids ? a.a_ids[b * a.rows + row] : 2 * row;
}
TK_INLINE int64_t column_token(const SelectEdgesArgs& a, int64_t b, int64_t column) {
  return a.b_ids ? a.b_ids[b * a.columns + column] : 2 * column + 1;
}

// Output token of the k-th unmerged row and of the k-th column that counts, where `unmerged` rows stay.
TK_INLINE int64_t unmerged_position(const SelectEdgesArgs& a, int64_t k) {
  return k + (a.distill_token && k > 0 && a.columns > 0);
}
TK_INLINE int64_t column_position(const SelectEdgesArgs& a, int64_t k, int64_t unmerged) {
  return a.distill_token && k == 0 && unmerged > 0 ? 1 : unmerged + k;
}

}  // namespace tk::merge
