// SPDX-License-Identifier: Apache-2.0
#include "bpe/trie.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "bpe/backward_automaton.h"
#include "core/error.h"

namespace tk::bpe {
namespace {

// Bytes read for every byte of text that is done with, before the automaton takes over.
constexpr int64_t kPatience = 8;
constexpr int64_t kFirstPatience = 1 << 14;
constexpr int64_t kLeastChunk = 1 << 16;

// Sorts, and throws for what a trie cannot hold.
std::vector<int32_t> checked_order(const Patterns& patterns) {
  if (patterns.bytes.size() >= INT32_MAX / 2) {
    throw ValueError("Trie: patterns must be of less than 2^30 bytes in all, got " +
                     std::to_string(patterns.bytes.size()));
  }
  for (int64_t i = 0; i < patterns.size(); ++i) {
    if (patterns[i].empty()) {
      throw ValueError("Trie: patterns must be at least one byte long, got an empty one at " + std::to_string(i));
    }
  }
  std::vector<int32_t> order = sorted_by_bytes(patterns);
  for (size_t i = 1; i < order.size(); ++i) {
    if (patterns[order[i - 1]] == patterns[order[i]]) {
      throw ValueError("Trie: patterns must be all different, got the same at " + std::to_string(order[i - 1]) +
                       " and " + std::to_string(order[i]));
    }
  }
  return order;
}

}  // namespace

Trie::Trie(Patterns patterns, std::vector<int64_t> values)
    : patterns_(std::move(patterns)),
      values_(std::move(values)),
      order_(checked_order(patterns_)),
      nodes_(patterns_, order_) {
  int bytes = 0;
  for (int64_t i = 0; i < size(); ++i) {
    longest_length_ = std::max(longest_length_, static_cast<int64_t>(patterns_[i].size()));
    begins_[static_cast<uint8_t>(patterns_[i][0])] = true;
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (begins_[byte]) ++bytes, only_byte_ = byte;
  }
  if (bytes != 1) only_byte_ = -1;
}

Trie::~Trie() { delete backward_.load(); }

std::pair<int64_t, int64_t> Trie::with_prefix(std::string_view prefix) const {
  const auto head = [&](int32_t p) { return patterns_[p].substr(0, prefix.size()); };
  const auto first = std::lower_bound(order_.begin(), order_.end(), prefix,
                                      [&](int32_t p, std::string_view wanted) { return head(p) < wanted; });
  const auto last = std::upper_bound(first, order_.end(), prefix,
                                     [&](std::string_view wanted, int32_t p) { return wanted < head(p); });
  return {first - order_.begin(), last - order_.begin()};
}

Matches Trie::find_all(std::string_view text) const {
  Matches found;
  const auto n = static_cast<int64_t>(text.size());
  int64_t spent = 0;
  for (int64_t at = 0; at < n;) {
    if (only_byte_ >= 0) {
      const void* next = std::memchr(text.data() + at, only_byte_, n - at);
      if (next == nullptr) break;
      at = static_cast<const char*>(next) - text.data();
    } else if (!begins_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    int32_t node = DoubleArray::kRoot;
    int64_t end = -1;
    int32_t pattern = -1;
    int64_t i = at;
    for (; i < n; ++i) {
      node = nodes_.child(node, static_cast<uint8_t>(text[i]));
      if (node == DoubleArray::kNone) break;
      if (nodes_.pattern(node) == DoubleArray::kNone) continue;
      pattern = nodes_.pattern(node);
      end = i + 1;
    }
    spent += i - at;
    if (pattern >= 0) found.add(at, end, pattern);
    at = pattern >= 0 ? end : at + 1;
    if (spent > kPatience * at + kFirstPatience) {
      find_rest(text, at, &found);
      break;
    }
  }
  return found;
}

void Trie::find_rest(std::string_view text, int64_t at, Matches* found) const {
  const BackwardAutomaton& automaton = backward();
  const auto n = static_cast<int64_t>(text.size());
  const int64_t chunk = std::max(kLeastChunk, 4 * longest_length_);
  std::vector<int32_t> longest(std::min(chunk, n - at));
  while (at < n) {
    const int64_t first = at;
    const int64_t last = std::min(n, first + chunk);
    automaton.longest_at(text.substr(0, std::min(n, last + longest_length_)), first, last, longest.data());
    while (at < last) {
      const int32_t pattern = longest[at - first];
      if (pattern < 0) {
        ++at;
        continue;
      }
      const int64_t end = at + static_cast<int64_t>(patterns_[pattern].size());
      found->add(at, end, pattern);
      at = end;
    }
  }
}

const BackwardAutomaton& Trie::backward() const {
  const BackwardAutomaton* made = backward_.load();
  if (made != nullptr) return *made;
  auto mine = std::make_unique<const BackwardAutomaton>(patterns_);
  if (backward_.compare_exchange_strong(made, mine.get())) made = mine.release();
  return *made;
}

}  // namespace tk::bpe
