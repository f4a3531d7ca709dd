// SPDX-License-Identifier: Apache-2.0
#include "bpe/backward_automaton.h"

#include <string>

namespace tk::bpe {
namespace {

Patterns read_backwards(const Patterns& patterns) {
  Patterns backward;
  backward.bytes.reserve(patterns.bytes.size());
  for (int64_t i = 0; i < patterns.size(); ++i) {
    backward.add(std::string(patterns[i].rbegin(), patterns[i].rend()));
  }
  return backward;
}

DoubleArray nodes_of(const Patterns& patterns) { return DoubleArray(patterns, sorted_by_bytes(patterns)); }

}  // namespace

BackwardAutomaton::BackwardAutomaton(const Patterns& patterns)
    : nodes_(nodes_of(read_backwards(patterns))),
      shorter_(nodes_.slots(), DoubleArray::kRoot),
      longest_(nodes_.slots(), DoubleArray::kNone) {
  for (const int32_t node : nodes_.by_depth()) {
    const int32_t parent = nodes_.parent(node);
    if (parent != DoubleArray::kRoot) shorter_[node] = step(shorter_[parent], nodes_.label(node));
    longest_[node] = nodes_.pattern(node) != DoubleArray::kNone ? nodes_.pattern(node) : longest_[shorter_[node]];
  }
}

int32_t BackwardAutomaton::step(int32_t state, uint8_t byte) const {
  for (;;) {
    const int32_t next = nodes_.child(state, byte);
    if (next != DoubleArray::kNone) return next;
    if (state == DoubleArray::kRoot) return state;
    state = shorter_[state];
  }
}

void BackwardAutomaton::longest_at(std::string_view text, int64_t first, int64_t last, int32_t* longest) const {
  int32_t state = DoubleArray::kRoot;
  for (auto i = static_cast<int64_t>(text.size()) - 1; i >= first; --i) {
    state = step(state, static_cast<uint8_t>(text[i]));
    if (i < last) longest[i - first] = longest_[state];
  }
}

}  // namespace tk::bpe
