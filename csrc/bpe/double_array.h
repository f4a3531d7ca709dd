// SPDX-License-Identifier: Apache-2.0
// A trie as one array: the child of a node by byte c lies at slot `base ^ c`, if that slot names the node as its
// parent. Children of a node share one block of 256 slots, so that a step is one load and never leaves the array.
#pragma once
#include <cstdint>
#include <vector>

#include "bpe/patterns.h"

namespace tk::bpe {

class DoubleArray {
 public:
  static constexpr int32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  // `order` is sorted_by_bytes(patterns); no string is empty or there twice.
  DoubleArray(const Patterns& patterns, const std::vector<int32_t>& order);

  // kNone where no string goes on so.
  int32_t child(int32_t node, uint8_t byte) const {
    const int32_t slot = nodes_[node].base ^ byte;
    return nodes_[slot].parent == node ? slot : kNone;
  }
  // The string that ends at a node, or kNone.
  int32_t pattern(int32_t node) const { return nodes_[node].pattern; }
  int32_t parent(int32_t node) const { return nodes_[node].parent; }
  uint8_t label(int32_t node) const { return static_cast<uint8_t>(nodes_[nodes_[node].parent].base ^ node); }

  // All nodes but the root, parents before children, shallow ones first.
  std::vector<int32_t> by_depth() const;
  int64_t slots() const { return static_cast<int64_t>(nodes_.size()); }

 private:
  friend class DoubleArrayBuilder;
  struct Node {
    int32_t base = 0;
    int32_t parent = kNone;  // of a free slot and of the root: kNone
    int32_t pattern = kNone;
  };
  std::vector<Node> nodes_;
};

}  // namespace tk::bpe
