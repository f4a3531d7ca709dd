// SPDX-License-Identifier: Apache-2.0
// An immutable vocabulary of byte-level BPE. Two ways to say what merges:
//   ranks   two neighbours merge when their bytes together are a token; smallest id first, then leftmost (tiktoken)
//   merges  a list of (left, right, result); earlier in the list first, then leftmost (Hugging Face)
// Safe to share between threads. What only some callers need is built at first use, without locks, so that a fork at
// any moment is harmless: two threads may build the same table, and one copy is thrown away.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bpe/vocab_pairs.h"
#include "bpe/vocab_view.h"

namespace tk::bpe {

struct PieceCache;

// Tokens as a tree of bytes: node 0 is the empty string.
struct TokenTrie {
  struct Slot {
    uint64_t key = ~uint64_t{0};  // node << 8 | byte
    int32_t child = 0;
  };
  std::vector<Slot> slots;
  std::vector<int32_t> token;  // of each node, or kNoToken; tokens that merging never makes are left out
  int shift = 0;

  int32_t child(int32_t node, uint8_t byte) const;  // -1: none
};

struct VocabSource {
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> offsets;
  std::vector<int32_t> ids;
  std::vector<int32_t> merges;  // M x 3 ids; with `ranked` empty and without meaning
  bool ranked = true;
  bool whole_piece = true;
  bool drop_missing = false;
};

// The bytes of a piece that are tokens. Throws ValueError where none may be missing, naming the place in the text.
std::vector<uint8_t> present_bytes(const VocabView& v, const uint8_t* text, const uint8_t* p, int64_t n);

class Vocab {
 public:
  // Throws ValueError: empty or duplicate tokens, duplicate ids, merges that name unknown ids or do not concatenate.
  explicit Vocab(VocabSource source);
  ~Vocab();
  Vocab(const Vocab&) = delete;
  Vocab& operator=(const Vocab&) = delete;

  const VocabView& view() const { return view_; }
  const VocabSource& source() const { return source_; }

  int32_t token_of(int64_t id) const;  // kNoToken when no token has this id
  bool ids_are_indices() const { return ids_are_indices_; }

  const History& history() const;
  const TokenTrie& trie() const;
  const std::vector<int32_t>& by_bytes() const;     // tokens in the order of their bytes
  const std::vector<int32_t>& next_prefix() const;  // longest proper prefix that merging can make, or kNoToken

  // Bounded memory of pieces seen before; one thread at a time uses it.
  std::unique_ptr<PieceCache> borrow_cache() const;
  void return_cache(std::unique_ptr<PieceCache> cache) const;

 private:
  void sort_by_id();
  void index_pieces();
  std::vector<int32_t> checked_merges() const;
  std::string quoted(int32_t token) const;

  static constexpr int kCaches = 16;

  VocabSource source_;
  VocabView view_{};
  std::vector<uint64_t> pieces_;
  std::vector<int32_t> merges_;  // as source_.merges, in tokens
  VocabPairs pairs_;
  bool ids_are_indices_ = true;
  mutable std::atomic<History*> history_{nullptr};
  mutable std::atomic<TokenTrie*> trie_{nullptr};
  mutable std::atomic<std::vector<int32_t>*> by_bytes_{nullptr};
  mutable std::atomic<std::vector<int32_t>*> next_prefix_{nullptr};
  mutable std::atomic<PieceCache*> caches_[kCaches] = {};
};

}  // namespace tk::bpe
