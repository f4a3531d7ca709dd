// SPDX-License-Identifier: Apache-2.0
// Pending draws of expand_greedy as integers: the largest is the next draw. A node has at most one pending, and which
// node that is follows from when it was pushed: drawing node c pushes the next draw at its parent as number 2c - 1, and
// the first at c as number 2c.
#pragma once
#include "tree/expand_greedy.h"

namespace tk::tree {

constexpr uint64_t kNoDraw = 0;

// Values are not negative, so that their bits are in their order.
TK_INLINE uint64_t pending_draw(float value, int64_t pushed) {
  return uint64_t{detail::bit_cast<uint32_t>(value)} << 32 | (0xffffffffu - static_cast<uint32_t>(pushed));
}
TK_INLINE float draw_value(uint64_t draw) { return detail::bit_cast<float>(static_cast<uint32_t>(draw >> 32)); }
TK_INLINE int64_t draw_pushed(uint64_t draw) { return 0xffffffffu - static_cast<uint32_t>(draw); }

// `parents` are those of the draw's tree.
TK_INLINE int64_t draw_node(int64_t pushed, const int64_t* parents) {
  return pushed % 2 == 0 ? pushed / 2 : parents[(pushed + 1) / 2];
}

// What a row of the answer holds before the search.
TK_INLINE void write_blank(const ExpandGreedyArgs& a, int64_t node, int64_t node_of_batch) {
  a.parents[node_of_batch] = -1;
  a.rank[node_of_batch] = node == 0 ? 0 : -1;
  a.value[node_of_batch] = node == 0 ? 1.0f : 0.0f;
  a.wanted[node_of_batch] = 0;
}

}  // namespace tk::tree
