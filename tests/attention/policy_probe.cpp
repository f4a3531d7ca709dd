// SPDX-License-Identifier: Apache-2.0
// The policy classes of attention/policy.h as one plain C function, for test_policy_laws.py.
#include <initializer_list>

#include "attention/policy.h"

using namespace tk;
using namespace tk::attention;

namespace {

// Fills, for one sample and head:
//   tile_of[i]     which tile query i is in; returns the number of tiles, or -1 where a walk stands still or overshoots
//   allowed[i, j]  what `allowed` says
//   walked[i, j]   1 where a span of i's tile holds j, 2 where it is full
//   seen[i, j]     1 where j is in i's interval of a span, itself cut in pieces of `piece` keys; without intervals,
//   walked
template <class P>
int64_t probe(const Policy& policy, const Extents& e, int64_t b, int64_t h, int64_t most, int64_t pack, int64_t piece,
              int64_t* tile_of, uint8_t* allowed, uint8_t* walked, uint8_t* seen) {
  const P p(policy, e, b, h);
  int64_t tiles = 0;
  for (int64_t i = 0; i < e.queries;) {
    const int64_t end = p.tile_end(i, most, pack);
    if (end <= i || end > e.queries || end - i > most) return -1;
    const TileRows tile{i, end};
    for (int64_t r = i; r < end; ++r) {
      tile_of[r] = tiles;
      for (int64_t j = 0; j < e.keys; ++j) allowed[r * e.keys + j] = p.allowed(r, j);
    }
    int64_t before = 0;
    Cursor cursor;
    for (Span s; p.next(tile, &cursor, &s);) {
      if (s.begin < before || s.end < s.begin || s.end > e.keys) return -1;
      before = s.end;
      for (int64_t r = i; r < end; ++r) {
        for (int64_t j = s.begin; j < s.end; ++j) walked[r * e.keys + j] = s.full ? 2 : 1;
        for (int64_t from = s.begin; from < s.end; from += piece) {
          const Span part{from, at_most(from + piece, s.end), s.full};
          Interval in = p.interval(r, part);
          in.begin = at_least(in.begin, part.begin);
          in.end = at_most(in.end, part.end);
          for (int64_t j = in.begin; j < in.end; ++j) seen[r * e.keys + j] = 1;
        }
      }
    }
    i = end;
    ++tiles;
  }
  return tiles <= p.tiles_at_most(most) ? tiles : -1;
}

}  // namespace

extern "C" {

// `numbers`: kind, causal, offset, prefix, map strides (batch, head, row), row and column blocks, strides of rows and
// columns (batch, head each), height, width, reach, pooled, tree batch stride, tree words, queries, keys.
int64_t walk(const int64_t* numbers, const uint8_t* map, const int64_t* rows, const int64_t* columns,
             const uint64_t* ancestors, int64_t b, int64_t h, int64_t most, int64_t pack, int64_t piece,
             int64_t* tile_of, uint8_t* allowed, uint8_t* walked, uint8_t* seen) {
  Policy p;
  const int64_t* n = numbers;
  p.kind = static_cast<PolicyKind>(*n++);
  p.causal = *n++ != 0;
  for (int64_t* to :
       {&p.offset, &p.prefix, &p.map_batch_stride, &p.map_head_stride, &p.map_row_stride, &p.row_blocks,
        &p.column_blocks, &p.rows_batch_stride, &p.rows_head_stride, &p.columns_batch_stride, &p.columns_head_stride,
        &p.height, &p.width, &p.reach, &p.pooled, &p.tree_batch_stride, &p.tree_words}) {
    *to = *n++;
  }
  const Extents e{n[0], n[1]};
  p.map = map;
  p.rows = rows;
  p.columns = columns;
  p.ancestors = ancestors;
  TK_POLICY_SWITCH(p.kind, P, return probe<P>(p, e, b, h, most, pack, piece, tile_of, allowed, walked, seen))
  return -1;
}

int kind_has_intervals(int64_t kind) {
  TK_POLICY_SWITCH(static_cast<PolicyKind>(kind), P, return P::kIntervals)
  return 0;
}
}
