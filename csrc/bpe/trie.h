// SPDX-License-Identifier: Apache-2.0
// Trie: which of many byte strings begin a text, and where they lie in it.
//
//   patterns  P byte strings, none empty, none twice, less than 2^31 bytes in all; pattern p stands for values[p]
//   text      N bytes
//
// A match of pattern p at `start` covers text[start, start + |p|). Leftmost-longest matches: the first start where any
// pattern matches, the longest pattern there, and so on from its end. They take time linear in N for any patterns and
// text: after much work in vain, the rest of the text is read once from its end by an automaton of the patterns read
// backwards, which knows the longest pattern at every start. Nothing changes after construction but that automaton,
// which is made once, when first needed; all functions may run on many threads.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "bpe/double_array.h"
#include "bpe/patterns.h"

namespace tk::bpe {

struct TextMatch {
  int64_t end = -1;      // -1: none
  int32_t pattern = -1;  // by number
};

struct Matches {
  std::vector<int64_t> start, end;
  std::vector<int32_t> pattern;
  void add(int64_t from, int64_t to, int32_t number) {
    start.push_back(from);
    end.push_back(to);
    pattern.push_back(number);
  }
};

class BackwardAutomaton;

class Trie {
 public:
  // Throws ValueError for an empty pattern, one that is there twice, or too many bytes.
  Trie(Patterns patterns, std::vector<int64_t> values);
  ~Trie();
  Trie(const Trie&) = delete;
  Trie& operator=(const Trie&) = delete;

  int64_t size() const { return patterns_.size(); }
  int64_t longest_length() const { return longest_length_; }
  const Patterns& patterns() const { return patterns_; }
  const std::vector<int64_t>& values() const { return values_; }
  // Pattern numbers in ascending order of bytes.
  const std::vector<int32_t>& order() const { return order_; }
  const DoubleArray& nodes() const { return nodes_; }

  // Calls f(end, pattern) for every pattern that starts at `start`, the shortest first.
  template <class F>
  void each_prefix(std::string_view text, int64_t start, F&& f) const {
    int32_t node = DoubleArray::kRoot;
    for (auto i = static_cast<size_t>(start); i < text.size(); ++i) {
      node = nodes_.child(node, static_cast<uint8_t>(text[i]));
      if (node == DoubleArray::kNone) return;
      if (nodes_.pattern(node) != DoubleArray::kNone) f(static_cast<int64_t>(i) + 1, nodes_.pattern(node));
    }
  }

  // The patterns that begin with `prefix` are order()[first, last).
  std::pair<int64_t, int64_t> with_prefix(std::string_view prefix) const;

  // Leftmost-longest matches, in order.
  Matches find_all(std::string_view text) const;

  // Whether the linear-time automaton was needed so far: for tests.
  bool reads_backward() const { return backward_.load() != nullptr; }

 private:
  const BackwardAutomaton& backward() const;
  void find_rest(std::string_view text, int64_t at, Matches* found) const;

  Patterns patterns_;
  std::vector<int64_t> values_;
  std::vector<int32_t> order_;
  DoubleArray nodes_;
  int64_t longest_length_ = 0;
  std::array<bool, 256> begins_{};  // whether a pattern starts with the byte
  int only_byte_ = -1;              // with which all patterns start
  // Made when first needed, without a lock, so that a fork at any moment is harmless: of two, one is thrown away.
  mutable std::atomic<const BackwardAutomaton*> backward_{nullptr};
};

namespace ref {
// By comparing every pattern with the text.
std::vector<TextMatch> prefixes(const Trie& trie, std::string_view text, int64_t start);
Matches find_all(const Trie& trie, std::string_view text);
std::vector<int32_t> with_prefix(const Trie& trie, std::string_view prefix);
}  // namespace ref

}  // namespace tk::bpe
