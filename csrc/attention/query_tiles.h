// SPDX-License-Identifier: Apache-2.0
// Work of a call cut into tiles of queries, and these into chunks for the threads: by shape and policy only, so that
// bits do not depend on the number of threads. Included by per-ISA files only.
//
//   for_each_query_tile<P>(policy, shape, TileSizes{rows, pack}, share_heads, [&](const QueryTile& t, const P& p) {});
#pragma once
#include "attention/attention.h"
#include "attention/multiply.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace tk::attention {
namespace {

// Queries rows.begin to rows.end of `heads` heads from `head`, which read the same keys and share the policy.
struct QueryTile {
  int64_t b, head, heads;
  TileRows rows;
  TK_MEMBER int64_t queries() const { return rows.end - rows.begin; }
};

struct TileSizes {
  int64_t rows;  // of a tile, at most
  int64_t pack;  // short segments share a tile until it holds so many
};

constexpr int64_t kChunkRows = 64;  // short tiles share a chunk of work until it holds so many rows
constexpr int64_t kFewTiles = 16;   // fewer are cut smaller, to keep several threads busy

TK_INLINE bool heads_share_policy(const Policy& p) {
  return p.map_head_stride == 0 && p.rows_head_stride == 0 && p.columns_head_stride == 0;
}
TK_INLINE bool samples_share_policy(const Policy& p) {
  return p.map_batch_stride == 0 && p.rows_batch_stride == 0 && p.columns_batch_stride == 0 && p.tree_batch_stride == 0;
}

// Rows of equal tiles for queries that only their number cuts.
TK_INLINE int64_t even_rows(int64_t queries, int64_t heads, int64_t most) {
  while (most > kChunkRows && heads * ((queries + most - 1) / most) < kFewTiles) most /= 2;
  const int64_t tiles = (queries + most - 1) / most;
  return tiles == 0 ? most : round_up((queries + tiles - 1) / tiles, kGroup);
}

// The tiles of one policy instance: tile t holds the queries [starts[t], starts[t + 1]); chunk c the tiles
// [chunks[c], chunks[c + 1]).
struct TileList {
  int64_t* starts;
  int64_t* chunks;
};

// Returns the number of chunks.
template <class P>
int64_t list_tiles(const P& policy, int64_t queries, const TileSizes& sizes, int64_t chunk_rows, const TileList& list) {
  int64_t tiles = 0;
  int64_t chunks = 0;
  int64_t chunk_begin = 0;
  list.chunks[0] = 0;
  for (int64_t i = 0; i < queries;) {
    list.starts[tiles++] = i;
    i = policy.tile_end(i, sizes.rows, sizes.pack);
    if (i - chunk_begin < chunk_rows && i < queries) continue;
    list.chunks[++chunks] = tiles;
    chunk_begin = i;
  }
  list.starts[tiles] = queries;
  return chunks;
}

// `share_heads`: heads that read the same keys may stand in one tile.
template <class P, class Body>
void for_each_query_tile(const Policy& policy, const Shape& shape, const TileSizes& sizes, bool share_heads,
                         const Body& body) {
  const int64_t queries = shape.extents.queries;
  if (shape.batch == 0 || shape.heads == 0 || queries == 0) return;
  const int64_t list_batch = samples_share_policy(policy) ? 1 : shape.batch;
  const int64_t list_heads = heads_share_policy(policy) ? 1 : shape.heads;
  const int64_t most_tiles = P(policy, shape.extents, 0, 0).tiles_at_most(sizes.rows);
  const int64_t group = shape.heads / shape.groups;
  int64_t together = share_heads && list_heads == 1 ? sizes.rows / smaller(queries, sizes.rows) : 1;
  together = smaller(together, group);
  const int64_t items_of_group = (group + together - 1) / together;

  const int64_t lists = list_batch * list_heads;
  const Scratch<int64_t> starts(lists * (most_tiles + 1));
  const Scratch<int64_t> chunks(lists * (most_tiles + 1));
  const Scratch<int64_t> counts(lists);
  const auto list = [&](int64_t l) {
    return TileList{starts.data() + l * (most_tiles + 1), chunks.data() + l * (most_tiles + 1)};
  };
  parallel_ranges(lists, most_tiles * 256, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      const P instance(policy, shape.extents, l / list_heads, l % list_heads);
      counts[l] = list_tiles(instance, queries, sizes, (kChunkRows + together - 1) / together, list(l));
    }
  });

  // An item is the heads of one tile, with all its queries.
  const int64_t items = shape.batch * shape.groups * items_of_group;
  const auto first_head = [&](int64_t item) {
    const int64_t g = item / items_of_group % shape.groups;
    return g * group + item % items_of_group * together;
  };
  const auto list_of = [&](int64_t item) {
    const int64_t b = item / (shape.groups * items_of_group);
    return (list_batch == 1 ? 0 : b) * list_heads + (list_heads == 1 ? 0 : first_head(item));
  };
  const Scratch<int64_t> first_chunk(items + 1);
  first_chunk[0] = 0;
  for (int64_t i = 0; i < items; ++i) first_chunk[i + 1] = first_chunk[i] + counts[list_of(i)];
  const int64_t total = first_chunk[items];
  parallel_for(total, [&](int64_t c) {
    const int64_t chunk = total - 1 - c;  // the last queries of a causal policy have most to do, and come first
    const int64_t item = block_of(first_chunk.data(), items, chunk);
    const TileList tiles = list(list_of(item));
    const int64_t head = first_head(item);
    const int64_t left = (head / group + 1) * group - head;
    const int64_t b = item / (shape.groups * items_of_group);
    const P instance(policy, shape.extents, b, head);
    const int64_t local = chunk - first_chunk[item];
    for (int64_t t = tiles.chunks[local]; t < tiles.chunks[local + 1]; ++t) {
      body(QueryTile{b, head, smaller(together, left), {tiles.starts[t], tiles.starts[t + 1]}}, instance);
    }
  });
}

}  // namespace
}  // namespace tk::attention
