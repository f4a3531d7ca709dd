// SPDX-License-Identifier: Apache-2.0
// The keys that a tile of rows meets: those of a part of the prefix in tiles, then the nodes that some row sees, from
// the last to the root. Included by per-ISA files only.
//
//   TileKeys keys;
//   for (KeyTiles walk(...); walk.next(&keys);) {   // keys.k, keys.v: where rows begin
//     ...
//   }
#pragma once
#include "attention/key_tile.h"
#include "tree/tree_attention.h"

namespace tk::tree {
namespace {

constexpr int64_t kTileKeys = 128;

struct TileKeys {
  int64_t count;
  int64_t first;  // of a tile of nodes: the place of its first one in the list; -1 for a tile of the prefix
  int64_t k[kTileKeys], v[kTileKeys];  // elements from the beginning of the cache of the group
  TK_MEMBER bool in_tree() const { return first >= 0; }
};

// Nodes that some row of a tile sees, ascending, and the place of a node in this list, -1 if it is not in it.
struct NodeList {
  int32_t* nodes;
  int32_t* place;
};

// For rows that are node (first + r) % nodes. Returns how many are seen.
[[maybe_unused]] int64_t list_seen(const int64_t* parents, int64_t nodes, int64_t first, int64_t rows,
                                   const NodeList& list) {
  for (int64_t n = 0; n < nodes; ++n) list.place[n] = -1;
  for (int64_t r = first; r < first + rows; ++r) {
    for (int64_t n = r % nodes; n >= 0 && list.place[n] < 0; n = parents[n]) list.place[n] = 0;
  }
  int32_t count = 0;
  for (int64_t n = 0; n < nodes; ++n) {
    if (list.place[n] < 0) continue;
    list.nodes[count] = static_cast<int32_t>(n);
    list.place[n] = count++;
  }
  return count;
}

class KeyTiles {
 public:
  // Rows [begin, end) of the prefix, `most` a tile, then the `nodes` of the list.
  KeyTiles(const TreeAttentionArgs& a, int64_t b, int64_t begin, int64_t end, int64_t most, const NodeList& list,
           int64_t nodes)
      : a_(a), b_(b), at_(begin), end_(end), most_(most), list_(list), left_(nodes) {}

  bool next(TileKeys* t) {
    if (at_ < end_) {
      t->count = attention::smaller(end_ - at_, most_);
      t->first = -1;
      place_run(a_.k, at_, t->count, t->k);
      place_run(a_.v, at_, t->count, t->v);
      at_ += t->count;
      return true;
    }
    t->count = attention::smaller(left_, kTileKeys);
    left_ -= t->count;
    t->first = left_;
    for (int64_t i = 0; i < t->count; ++i) {
      const int64_t row = prefix_length(a_, b_) + list_.nodes[left_ + i];
      t->k[i] = cache_offset(a_.k, a_.table, b_, row);
      t->v[i] = cache_offset(a_.v, a_.table, b_, row);
    }
    return t->count > 0;
  }

 private:
  // A division a page, not a row.
  void place_run(const HeadRows& cache, int64_t j, int64_t count, int64_t* to) const {
    for (int64_t i = 0; i < count;) {
      const int64_t run = attention::smaller(a_.table.rows - (j + i) % a_.table.rows, count - i);
      const int64_t offset = cache_offset(cache, a_.table, b_, j + i);
      for (int64_t r = 0; r < run; ++r) to[i + r] = offset + r * cache.row_stride;
      i += run;
    }
  }

  const TreeAttentionArgs& a_;
  int64_t b_, at_, end_, most_;
  NodeList list_;
  int64_t left_;
};

}  // namespace
}  // namespace tk::tree
