// SPDX-License-Identifier: Apache-2.0
// Mask policies: which keys a query may attend to. One plain struct crosses the binding; one small class a kind, bound
// to one sample and head, plugs into every tile loop (ref, SIMD, CUDA; forward, backward, sums of the map).
//
// The concept, for a class P:
//   P(policy, extents, b, h)
//   allowed(i, j)               does query i see key j
//   tile_end(i, most, pack)     where a tile of queries that starts at i ends: at most `most` rows, none of which would
//                               make another one walk keys it does not need. Short segments share a tile until it holds
//                               `pack` rows. Walking from 0 gives a partition of the queries.
//   next(tile, cursor, span)    the next run of keys, in ascending order; false at the end. Runs cover what some row of
//                               the tile sees, and with kIntervals nothing else, but for segments that share a tile:
//                               keys of a segment without queries may lie between theirs. `full`: every row sees all
//                               of it, and no mask is needed.
//   kIntervals, interval(i, s)  the keys of span s, or of a part of it, that row i sees are one interval, which may
//                               reach beyond the part (else: ask allowed)
//   tiles_at_most(most)         a bound on the number of tiles, for launch grids
#pragma once
#include <cstdint>

#include "core/dtype.h"

// Members stay inline in every instruction set: a weak copy compiled for AVX-512 must never reach the linker.
#define TK_MEMBER inline TK_HOST_DEVICE __attribute__((always_inline))

namespace tk::attention {

enum class PolicyKind : int32_t { dense, causal, block_map, disc, segments, tree, mask };

// Strides of 0 share one array between samples or heads.
struct Policy {
  PolicyKind kind = PolicyKind::dense;
  bool causal = false;  // segments, mask: also j <= i + offset (per segment, aligned at the last token)
  int64_t offset = 0;   // causal, mask: query i sees keys up to i + offset
  int64_t prefix = 0;   // causal: keys before it are always seen; disc: text tokens; tree: cached tokens
  // block_map, mask: one byte a block or a pair
  const uint8_t* map = nullptr;
  int64_t map_batch_stride = 0, map_head_stride = 0, map_row_stride = 0;
  // block_map, segments: offsets of row and column blocks, one more than there are blocks
  const int64_t* rows = nullptr;
  const int64_t* columns = nullptr;
  int64_t row_blocks = 0, column_blocks = 0;
  int64_t rows_batch_stride = 0, rows_head_stride = 0, columns_batch_stride = 0, columns_head_stride = 0;
  // disc: a grid of height x width image tokens, seen where the squared distance is below `reach`
  int64_t height = 0, width = 0, reach = 0, pooled = 0;
  // tree: a bit set of ancestors a node, 64 nodes a word
  const uint64_t* ancestors = nullptr;
  int64_t tree_batch_stride = 0, tree_words = 0;
};

struct Extents {
  int64_t queries = 0, keys = 0;
};

struct Span {
  int64_t begin, end;
  bool full;
};

struct Interval {
  int64_t begin, end;
};

// Rows [begin, end) of a tile of queries.
struct TileRows {
  int64_t begin, end;
};

struct Cursor {
  int64_t at = 0;      // where the walk goes on; what it counts is the policy's own affair
  int64_t block = -1;  // the row block of the tile, once found
};

TK_INLINE int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }
TK_INLINE int64_t at_least(int64_t x, int64_t limit) { return x > limit ? x : limit; }

// The block that holds token i: offsets[block] <= i < offsets[block + 1]. Blocks may be empty.
TK_INLINE int64_t block_of(const int64_t* offsets, int64_t blocks, int64_t i) {
  int64_t low = 0;
  int64_t high = blocks;  // offsets[low] <= i < offsets[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (offsets[middle] <= i ? low : high) = middle;
  }
  return low;
}

// The largest integer whose square is below n, or -1.
TK_INLINE int64_t root_below(int64_t n) {
  if (n <= 0) return -1;
  int64_t root = static_cast<int64_t>(__builtin_sqrt(static_cast<double>(n)));
  while (root * root >= n) --root;
  while ((root + 1) * (root + 1) < n) ++root;
  return root;
}

struct DensePolicy {
  static constexpr bool kIntervals = true;
  int64_t queries, keys;

  TK_MEMBER DensePolicy(const Policy&, const Extents& e, int64_t, int64_t) : queries(e.queries), keys(e.keys) {}
  TK_MEMBER bool allowed(int64_t, int64_t) const { return true; }
  TK_MEMBER int64_t tile_end(int64_t i, int64_t most, int64_t) const { return at_most(i + most, queries); }
  TK_MEMBER bool next(const TileRows&, Cursor* c, Span* s) const {
    if (c->at > 0 || keys == 0) return false;
    c->at = 1;
    *s = {0, keys, true};
    return true;
  }
  TK_MEMBER Interval interval(int64_t, const Span& s) const { return {s.begin, s.end}; }
  TK_MEMBER int64_t tiles_at_most(int64_t most) const { return (queries + most - 1) / most; }
};

// Causal, and PrefixCausal where prefix > 0.
struct CausalPolicy {
  static constexpr bool kIntervals = true;
  int64_t queries, keys, prefix, offset;

  TK_MEMBER CausalPolicy(const Policy& p, const Extents& e, int64_t, int64_t)
      : queries(e.queries), keys(e.keys), prefix(p.prefix), offset(p.offset) {}
  TK_MEMBER int64_t limit(int64_t i) const { return at_most(at_least(at_least(prefix, i + offset + 1), 0), keys); }
  TK_MEMBER bool allowed(int64_t i, int64_t j) const { return j < limit(i); }
  TK_MEMBER int64_t tile_end(int64_t i, int64_t most, int64_t) const { return at_most(i + most, queries); }
  TK_MEMBER bool next(const TileRows& t, Cursor* c, Span* s) const {
    const int64_t all_see = limit(t.begin);
    const int64_t some_see = limit(t.end - 1);
    if (c->at == 0) {
      c->at = 1;
      *s = {0, all_see, true};
      if (all_see > 0) return true;
    }
    if (c->at > 1 || some_see == all_see) return false;
    c->at = 2;
    *s = {all_see, some_see, false};
    return true;
  }
  TK_MEMBER Interval interval(int64_t i, const Span& s) const {
    return {s.begin, at_least(at_most(limit(i), s.end), s.begin)};
  }
  TK_MEMBER int64_t tiles_at_most(int64_t most) const { return (queries + most - 1) / most; }
};

// Row blocks and column blocks of any size, zero included, and a byte a pair of blocks.
struct BlockMapPolicy {
  static constexpr bool kIntervals = true;
  const uint8_t* map;
  const int64_t* rows;
  const int64_t* columns;
  int64_t row_blocks, column_blocks, map_row_stride, queries;

  TK_MEMBER BlockMapPolicy(const Policy& p, const Extents& e, int64_t b, int64_t h)
      : map(p.map + b * p.map_batch_stride + h * p.map_head_stride),
        rows(p.rows + b * p.rows_batch_stride + h * p.rows_head_stride),
        columns(p.columns + b * p.columns_batch_stride + h * p.columns_head_stride),
        row_blocks(p.row_blocks),
        column_blocks(p.column_blocks),
        map_row_stride(p.map_row_stride),
        queries(e.queries) {}
  TK_MEMBER bool allowed(int64_t i, int64_t j) const {
    return map[block_of(rows, row_blocks, i) * map_row_stride + block_of(columns, column_blocks, j)] != 0;
  }
  TK_MEMBER int64_t tile_end(int64_t i, int64_t most, int64_t) const {
    return at_most(i + most, rows[block_of(rows, row_blocks, i) + 1]);
  }
  // Neighbouring blocks that are both seen are one span.
  TK_MEMBER bool next(const TileRows& t, Cursor* c, Span* s) const {
    if (c->block < 0) c->block = block_of(rows, row_blocks, t.begin);
    const uint8_t* seen = map + c->block * map_row_stride;
    int64_t j = c->at;
    while (j < column_blocks && (!seen[j] || columns[j] == columns[j + 1])) ++j;
    const int64_t first = j;
    while (j < column_blocks && (seen[j] || columns[j] == columns[j + 1])) ++j;
    c->at = j;
    if (first == j) return false;
    *s = {columns[first], columns[j], true};
    return true;
  }
  TK_MEMBER Interval interval(int64_t, const Span& s) const { return {s.begin, s.end}; }
  TK_MEMBER int64_t tiles_at_most(int64_t most) const { return (queries + most - 1) / most + row_blocks; }
};

// [prefix text tokens | height x width image tokens | pooled keys]. Text sees text and image; an image token sees the
// text, the image tokens nearer than the radius, and the pooled keys. A tile of image tokens lies in one grid row.
struct DiscPolicy {
  static constexpr bool kIntervals = true;
  int64_t height, width, prefix, pooled, reach, rows_up;

  TK_MEMBER DiscPolicy(const Policy& p, const Extents&, int64_t, int64_t)
      : height(p.height),
        width(p.width),
        prefix(p.prefix),
        pooled(p.pooled),
        reach(p.reach),
        rows_up(root_below(p.reach)) {}
  TK_MEMBER int64_t image_end() const { return prefix + height * width; }
  TK_MEMBER bool allowed(int64_t i, int64_t j) const {
    if (i < prefix) return j < image_end();
    if (j < prefix || j >= image_end()) return true;
    const int64_t dy = (i - prefix) / width - (j - prefix) / width;
    const int64_t dx = (i - prefix) % width - (j - prefix) % width;
    return dy * dy + dx * dx < reach;
  }
  TK_MEMBER int64_t tile_end(int64_t i, int64_t most, int64_t) const {
    if (i < prefix) return at_most(i + most, prefix);
    return at_most(i + most, i + width - (i - prefix) % width);
  }
  // cursor: 0 the text, 1 + y the grid row y, 1 + height the pooled keys.
  TK_MEMBER bool next(const TileRows& t, Cursor* c, Span* s) const {
    if (t.begin < prefix) {
      *s = {0, image_end(), true};
      return c->at++ == 0;
    }
    const int64_t y = (t.begin - prefix) / width;
    if (c->at == 0) {
      c->at = 1 + at_least(y - rows_up, 0);
      *s = {0, prefix, true};
      if (prefix > 0) return true;
    }
    const int64_t last = at_most(y + rows_up, height - 1);
    if (c->at <= 1 + last) {
      *s = row_span(t, y, c->at++ - 1);
      return true;
    }
    if (c->at > 1 + height || pooled == 0) return false;
    c->at = 2 + height;
    *s = {image_end(), image_end() + pooled, true};
    return true;
  }
  TK_MEMBER Interval interval(int64_t i, const Span& s) const {
    if (s.full) return {s.begin, s.end};
    const int64_t row = (s.begin - prefix) / width;
    const int64_t x = (i - prefix) % width;
    const int64_t reach_x = half_width((i - prefix) / width - row);
    const int64_t start = prefix + row * width;
    return {start + at_least(x - reach_x, 0), start + at_most(x + reach_x + 1, width)};
  }
  TK_MEMBER int64_t tiles_at_most(int64_t most) const {
    return (prefix + most - 1) / most + height * ((width + most - 1) / most);
  }

 private:
  TK_MEMBER int64_t half_width(int64_t dy) const { return root_below(reach - dy * dy); }
  TK_MEMBER Span row_span(const TileRows& t, int64_t y, int64_t row) const {
    const int64_t first = (t.begin - prefix) % width;
    const int64_t last = first + (t.end - t.begin) - 1;
    const int64_t reach_x = half_width(y - row);
    const int64_t begin = at_least(first - reach_x, 0);
    const int64_t end = at_most(last + reach_x + 1, width);
    const bool full = at_least(last - reach_x, 0) == begin && at_most(first + reach_x + 1, width) == end;
    const int64_t start = prefix + row * width;
    return {start + begin, start + end, full};
  }
};

// Variable-length sequences side by side: token i of segment s sees the keys of segment s. Short segments share a tile.
struct SegmentsPolicy {
  static constexpr bool kIntervals = true;
  const int64_t* rows;
  const int64_t* columns;
  int64_t segments, queries;
  bool causal;

  TK_MEMBER SegmentsPolicy(const Policy& p, const Extents& e, int64_t b, int64_t h)
      : rows(p.rows + b * p.rows_batch_stride + h * p.rows_head_stride),
        columns(p.columns + b * p.columns_batch_stride + h * p.columns_head_stride),
        segments(p.row_blocks),
        queries(e.queries),
        causal(p.causal) {}
  // Keys that query i of segment s sees end here.
  TK_MEMBER int64_t limit(int64_t i, int64_t s) const {
    if (!causal) return columns[s + 1];
    return at_most(at_least(columns[s + 1] - (rows[s + 1] - 1 - i), columns[s]), columns[s + 1]);
  }
  TK_MEMBER bool allowed(int64_t i, int64_t j) const {
    const int64_t s = block_of(rows, segments, i);
    return j >= columns[s] && j < limit(i, s);
  }
  TK_MEMBER int64_t tile_end(int64_t i, int64_t most, int64_t pack) const {
    int64_t s = block_of(rows, segments, i);
    int64_t end = rows[s + 1];
    if (end - i > most) return i + most;
    while (end - i < pack && s + 1 < segments && rows[s + 2] - i <= most) end = rows[++s + 1];
    return end;
  }
  TK_MEMBER bool next(const TileRows& t, Cursor* c, Span* s) const {
    if (c->block < 0) c->block = block_of(rows, segments, t.begin);
    const int64_t first = c->block;
    if (rows[first + 1] < t.end) return next_shared(t, first, c, s);
    const int64_t all_see = limit(t.begin, first);
    const int64_t some_see = limit(t.end - 1, first);
    if (c->at == 0) {
      c->at = 1;
      *s = {columns[first], all_see, true};
      if (s->begin < s->end) return true;
    }
    if (c->at > 1 || some_see == all_see) return false;
    c->at = 2;
    *s = {all_see, some_see, false};
    return true;
  }
  TK_MEMBER Interval interval(int64_t i, const Span& s) const {
    const int64_t segment = block_of(rows, segments, i);
    const int64_t begin = at_most(at_least(columns[segment], s.begin), s.end);
    return {begin, at_least(at_most(limit(i, segment), s.end), begin)};
  }
  TK_MEMBER int64_t tiles_at_most(int64_t most) const { return (queries + most - 1) / most + segments; }

 private:
  // A tile of several whole segments: their keys are neighbours.
  TK_MEMBER bool next_shared(const TileRows& t, int64_t first, Cursor* c, Span* s) const {
    *s = {columns[first], columns[block_of(rows, segments, t.end - 1) + 1], false};
    return c->at++ == 0 && s->begin < s->end;
  }
};

// [prefix cached keys | nodes]: a node sees the prefix, itself and its ancestors.
struct TreePolicy {
  static constexpr bool kIntervals = false;
  const uint64_t* ancestors;
  int64_t words, prefix, nodes;

  TK_MEMBER TreePolicy(const Policy& p, const Extents& e, int64_t b, int64_t)
      : ancestors(p.ancestors + b * p.tree_batch_stride), words(p.tree_words), prefix(p.prefix), nodes(e.queries) {}
  TK_MEMBER bool allowed(int64_t i, int64_t j) const {
    if (j < prefix) return true;
    const int64_t node = j - prefix;
    return node == i || ((ancestors[i * words + node / 64] >> (node % 64)) & 1u) != 0;
  }
  TK_MEMBER int64_t tile_end(int64_t i, int64_t most, int64_t) const { return at_most(i + most, nodes); }
  TK_MEMBER bool next(const TileRows&, Cursor* c, Span* s) const {
    if (c->at == 0) {
      c->at = 1;
      *s = {0, prefix, true};
      if (prefix > 0) return true;
    }
    *s = {prefix, prefix + nodes, false};
    return c->at++ == 1;
  }
  TK_MEMBER Interval interval(int64_t, const Span& s) const { return {s.begin, s.end}; }
  TK_MEMBER int64_t tiles_at_most(int64_t most) const { return (nodes + most - 1) / most; }
};

// A byte a pair, and, on request, causal besides.
struct MaskPolicy {
  static constexpr bool kIntervals = false;
  const uint8_t* map;
  int64_t row_stride, queries, keys, offset;
  bool causal;

  TK_MEMBER MaskPolicy(const Policy& p, const Extents& e, int64_t b, int64_t h)
      : map(p.map + b * p.map_batch_stride + h * p.map_head_stride),
        row_stride(p.map_row_stride),
        queries(e.queries),
        keys(e.keys),
        offset(p.offset),
        causal(p.causal) {}
  TK_MEMBER int64_t limit(int64_t i) const { return causal ? at_most(at_least(i + offset + 1, 0), keys) : keys; }
  TK_MEMBER bool allowed(int64_t i, int64_t j) const { return j < limit(i) && map[i * row_stride + j] != 0; }
  TK_MEMBER int64_t tile_end(int64_t i, int64_t most, int64_t) const { return at_most(i + most, queries); }
  TK_MEMBER bool next(const TileRows& t, Cursor* c, Span* s) const {
    *s = {0, limit(t.end - 1), false};
    return c->at++ == 0 && s->end > 0;
  }
  TK_MEMBER Interval interval(int64_t, const Span& s) const { return {s.begin, s.end}; }
  TK_MEMBER int64_t tiles_at_most(int64_t most) const { return (queries + most - 1) / most; }
};

// Runs BODY with the type alias P bound to the class of a policy.
#define TK_POLICY_SWITCH(kind, P, ...)             \
  switch (kind) {                                  \
    case ::tk::attention::PolicyKind::causal: {    \
      using P = ::tk::attention::CausalPolicy;     \
      __VA_ARGS__;                                 \
      break;                                       \
    }                                              \
    case ::tk::attention::PolicyKind::block_map: { \
      using P = ::tk::attention::BlockMapPolicy;   \
      __VA_ARGS__;                                 \
      break;                                       \
    }                                              \
    case ::tk::attention::PolicyKind::disc: {      \
      using P = ::tk::attention::DiscPolicy;       \
      __VA_ARGS__;                                 \
      break;                                       \
    }                                              \
    case ::tk::attention::PolicyKind::segments: {  \
      using P = ::tk::attention::SegmentsPolicy;   \
      __VA_ARGS__;                                 \
      break;                                       \
    }                                              \
    case ::tk::attention::PolicyKind::tree: {      \
      using P = ::tk::attention::TreePolicy;       \
      __VA_ARGS__;                                 \
      break;                                       \
    }                                              \
    case ::tk::attention::PolicyKind::mask: {      \
      using P = ::tk::attention::MaskPolicy;       \
      __VA_ARGS__;                                 \
      break;                                       \
    }                                              \
    default: {                                     \
      using P = ::tk::attention::DensePolicy;      \
      __VA_ARGS__;                                 \
    }                                              \
  }

}  // namespace tk::attention
