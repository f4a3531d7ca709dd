// SPDX-License-Identifier: Apache-2.0
#include "bpe/double_array.h"

#include <algorithm>
#include <numeric>

namespace tk::bpe {
namespace {

constexpr int32_t kBlock = 256;
constexpr int kMostBlocksTried = 8;  // for a node of several children, before it gets a block of its own
constexpr int kMostFailures = 16;    // after which a block takes only children only

}  // namespace

std::vector<int32_t> sorted_by_bytes(const Patterns& patterns) {
  std::vector<int32_t> order(patterns.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return patterns[a] < patterns[b]; });
  return order;
}

// Places nodes depth first: the long tails of strings, whose nodes have one child each, come to lie close together.
class DoubleArrayBuilder {
 public:
  DoubleArrayBuilder(const Patterns& patterns, const std::vector<int32_t>& order, std::vector<DoubleArray::Node>* nodes)
      : patterns_(patterns), order_(order), nodes_(*nodes) {
    add_block();
    take(DoubleArray::kRoot);
    stack_.push_back({DoubleArray::kRoot, 0, static_cast<int32_t>(order.size()), 0});
    while (!stack_.empty()) {
      const Range range = stack_.back();
      stack_.pop_back();
      place_children(range);
    }
  }

 private:
  // The strings order[first, last) pass through `node`, which lies `depth` bytes down.
  struct Range {
    int32_t node, first, last;
    int64_t depth;
  };
  struct Block {
    int32_t free = kBlock;
    int failures = 0;
    int32_t hint = 0;  // no slot below is free
  };

  void place_children(Range range) {
    const int32_t node = range.node;
    if (range.first < range.last && length(range.first) == range.depth) {
      nodes_[node].pattern = order_[range.first++];
    }
    labels_.clear();
    starts_.clear();
    for (int32_t i = range.first; i < range.last; ++i) {
      const auto byte = static_cast<uint8_t>(patterns_[order_[i]][range.depth]);
      if (!labels_.empty() && labels_.back() == byte) continue;
      labels_.push_back(byte);
      starts_.push_back(i);
    }
    if (labels_.empty()) return;
    starts_.push_back(range.last);
    const int32_t base = labels_.size() == 1 ? find_single() : find_several();
    nodes_[node].base = base;
    for (const uint8_t byte : labels_) {
      take(base ^ byte);
      nodes_[base ^ byte].parent = node;
    }
    for (size_t i = labels_.size(); i-- > 0;) {  // the first child comes off the stack first
      stack_.push_back({base ^ labels_[i], starts_[i], starts_[i + 1], range.depth + 1});
    }
  }

  int64_t length(int32_t i) const { return static_cast<int64_t>(patterns_[order_[i]].size()); }

  bool is_free(int32_t slot) const { return free_[slot]; }

  void take(int32_t slot) {
    free_[slot] = false;
    --blocks_[slot / kBlock].free;
  }

  void add_block() {
    open_.push_back(static_cast<int32_t>(blocks_.size()));
    blocks_.emplace_back();
    nodes_.resize(nodes_.size() + kBlock);
    free_.resize(nodes_.size(), true);
  }

  int32_t find_single() {
    while (blocks_[oldest_].free == 0) {
      if (++oldest_ == static_cast<int32_t>(blocks_.size())) add_block();
    }
    Block& block = blocks_[oldest_];
    while (!is_free(oldest_ * kBlock + block.hint)) ++block.hint;
    return (oldest_ * kBlock + block.hint) ^ labels_[0];
  }

  int32_t find_several() {
    int tried = 0;
    for (size_t k = open_.size(); k-- > 0 && tried < kMostBlocksTried; ++tried) {
      const int32_t block = open_[k];
      const int32_t base = fit(block);
      if (base >= 0) return base;
      if (++blocks_[block].failures < kMostFailures) continue;
      open_[k] = open_.back();
      open_.pop_back();
    }
    add_block();
    return fit(static_cast<int32_t>(blocks_.size()) - 1);
  }

  int32_t fit(int32_t block) const {
    if (blocks_[block].free < static_cast<int32_t>(labels_.size())) return DoubleArray::kNone;
    for (int32_t base = block * kBlock; base < (block + 1) * kBlock; ++base) {
      if (std::all_of(labels_.begin(), labels_.end(), [&](uint8_t byte) { return is_free(base ^ byte); })) return base;
    }
    return DoubleArray::kNone;
  }

  const Patterns& patterns_;
  const std::vector<int32_t>& order_;
  std::vector<DoubleArray::Node>& nodes_;
  std::vector<bool> free_;
  std::vector<Block> blocks_;
  std::vector<int32_t> open_;  // blocks that nodes of several children may still go to
  int32_t oldest_ = 0;         // block with free slots for single children; those before it are full
  std::vector<Range> stack_;
  std::vector<uint8_t> labels_;  // of the children of the node in hand
  std::vector<int32_t> starts_;
};

DoubleArray::DoubleArray(const Patterns& patterns, const std::vector<int32_t>& order) {
  DoubleArrayBuilder(patterns, order, &nodes_);
  nodes_.shrink_to_fit();
}

std::vector<int32_t> DoubleArray::by_depth() const {
  std::vector<int32_t> first(nodes_.size() + 1, 0);
  for (const Node& node : nodes_) {
    if (node.parent != kNone) ++first[node.parent + 1];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int32_t> child(first.back());
  std::vector<int32_t> next(first.begin(), first.end() - 1);
  for (int32_t slot = 0; slot < static_cast<int32_t>(nodes_.size()); ++slot) {
    if (nodes_[slot].parent != kNone) child[next[nodes_[slot].parent]++] = slot;
  }
  std::vector<int32_t> found(child.begin() + first[kRoot], child.begin() + first[kRoot + 1]);
  for (size_t i = 0; i < found.size(); ++i) {
    found.insert(found.end(), child.begin() + first[found[i]], child.begin() + first[found[i] + 1]);
  }
  return found;
}

}  // namespace tk::bpe
