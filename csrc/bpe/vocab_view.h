// SPDX-License-Identifier: Apache-2.0
// The tables of a vocabulary as raw pointers, and the look-ups in them: what kernels of every instruction set use.
// Tokens are numbered 0..size-1 in ascending order of their ids ("index"); only what leaves an op is an id.
#pragma once
#include <cstdint>
#include <cstring>

#include "bpe/hash.h"

namespace tk::bpe {

class Vocab;

constexpr int32_t kNoToken = -1;
constexpr int32_t kNoRank = INT32_MAX;
constexpr int32_t kMostPackedRanks = (1 << 24) - 1;
constexpr uint64_t kEmptyPiece = ~uint64_t{0};

// A merge: (left, right) -> result, of priority rank (smaller first). Empty slots have left == kNoToken.
struct PairSlot {
  int32_t left, right, rank, result;
};

// The same in one word, where each token has one pair that makes it: left, right, result, of so many bits each.
constexpr int kPackedPartBits = 21;
constexpr int kPackedResultBits = 64 - 2 * kPackedPartBits;
constexpr uint64_t kEmptyPair = ~uint64_t{0};
constexpr int kFilterBits = 2;  // more than the slots have

// What two neighbours become; rank == kNoRank when they do not merge.
struct PairMerge {
  int32_t rank, result;
};

// How each token comes about when its own bytes are merged. order: the rank of the last merge; -1 for single bytes and
// for tokens that merging never makes, which have left == right == themselves.
struct HistoryView {
  const int32_t *left, *right, *order;
  // Merges of every token's bytes come in ascending rank. Then tokens that are neighbours decide alone whether they may
  // be neighbours, and there is exactly one sequence of allowed neighbours for any bytes: see merge.h.
  bool ascending;
};

struct VocabView {
  const Vocab* owner;
  const uint8_t* bytes;     // of all tokens, one after the other
  const uint32_t* offsets;  // size + 1
  const int32_t* ids;       // id of each token
  const uint64_t* pieces;   // open addressing: upper half of the hash << 32 | token
  // Open addressing, one of the two. Packed: only the pairs that merging ever meets, so that the rank of a pair is the
  // order of its result.
  const uint64_t* packed_pairs;
  const uint64_t* pair_filter;  // a bit for the hash of each packed pair: small enough for a cache near the core
  const PairSlot* pairs;
  const int32_t* orders;        // of packed pairs; nullptr where the order of a token is the token
  const PairMerge* byte_pairs;  // of two single bytes, at first << 8 | second
  uint64_t piece_mask;          // slots - 1
  int pair_shift;               // 64 - log2(slots)
  int32_t size;
  int32_t longest;          // bytes of the longest token
  int32_t byte_token[256];  // kNoToken where a byte is no token
  bool packs_ranks;         // every rank fits the words of merge_array.h
  bool whole_piece;         // a piece that is a token is emitted as it is
  bool complete;            // every byte is a token
  bool drop_missing;        // bytes without a token are left out; otherwise they are an error
};

// Made at the first call.
const HistoryView& history_of(const VocabView& v);

namespace {

inline uint32_t token_length(const VocabView& v, int32_t token) { return v.offsets[token + 1] - v.offsets[token]; }

inline int32_t find_token(const VocabView& v, const uint8_t* p, int64_t n) {
  const uint64_t hash = hash_bytes(p, n);
  for (uint64_t slot = hash & v.piece_mask;; slot = (slot + 1) & v.piece_mask) {
    const uint64_t entry = v.pieces[slot];
    if (entry == kEmptyPiece) return kNoToken;
    if (entry >> 32 != hash >> 32) continue;
    const auto token = static_cast<int32_t>(entry & 0xffffffffu);
    if (token_length(v, token) == n && std::memcmp(v.bytes + v.offsets[token], p, static_cast<size_t>(n)) == 0) {
      return token;
    }
  }
}

// What a slot of the pairs holds, whichever table it is.
inline PairSlot pair_at(const VocabView& v, uint64_t slot) {
  if (!v.packed_pairs) return v.pairs[slot];
  const uint64_t entry = v.packed_pairs[slot];
  if (entry == kEmptyPair) return {kNoToken, kNoToken, kNoRank, kNoToken};
  const auto result = static_cast<int32_t>(entry & ((uint64_t{1} << kPackedResultBits) - 1));
  const auto right = static_cast<int32_t>(entry >> kPackedResultBits & ((uint64_t{1} << kPackedPartBits) - 1));
  const auto left = static_cast<int32_t>(entry >> (kPackedResultBits + kPackedPartBits));
  return {left, right, v.orders ? v.orders[result] : result, result};
}

// False: certainly not a pair of the packed ones.
TK_INLINE bool may_be_packed(const VocabView& v, uint64_t hash) {
  const uint64_t bit = hash >> (v.pair_shift - kFilterBits);
  return v.pair_filter[bit / 64] >> bit % 64 & 1;
}

inline PairMerge probe_packed_pair(const VocabView& v, uint64_t hash, int32_t left, int32_t right) {
  const uint64_t mask = (uint64_t{1} << (64 - v.pair_shift)) - 1;
  const uint64_t key =
      static_cast<uint64_t>(static_cast<uint32_t>(left)) << kPackedPartBits | static_cast<uint32_t>(right);
  for (uint64_t slot = hash >> v.pair_shift;; slot = (slot + 1) & mask) {
    const uint64_t entry = v.packed_pairs[slot];
    if (entry >> kPackedResultBits == key) {
      const auto result = static_cast<int32_t>(entry & ((uint64_t{1} << kPackedResultBits) - 1));
      return {v.orders ? v.orders[result] : result, result};
    }
    if (entry == kEmptyPair) return {kNoRank, kNoToken};
  }
}

inline PairMerge find_packed_pair(const VocabView& v, int32_t left, int32_t right) {
  const uint64_t hash = hash_pair(left, right);
  return may_be_packed(v, hash) ? probe_packed_pair(v, hash, left, right) : PairMerge{kNoRank, kNoToken};
}

inline PairMerge find_pair(const VocabView& v, int32_t left, int32_t right) {
  if (v.packed_pairs) return find_packed_pair(v, left, right);
  const uint64_t mask = (uint64_t{1} << (64 - v.pair_shift)) - 1;
  for (uint64_t slot = hash_pair(left, right) >> v.pair_shift;; slot = (slot + 1) & mask) {
    const PairSlot& pair = v.pairs[slot];
    if (pair.left == left && pair.right == right) return {pair.rank, pair.result};
    if (pair.left == kNoToken) return {kNoRank, kNoToken};
  }
}

// Whether merging bytes(left) + bytes(right) ends with just these two tokens: walk back through their histories, the
// latest merge first, and see whether a merge across the boundary would have come before what was undone.
inline bool pair_is_stable(const VocabView& v, const HistoryView& h, int32_t left, int32_t right,
                           int64_t limit = INT64_MAX) {
  for (;;) {
    const PairMerge across = find_pair(v, left, right);
    if (across.rank != kNoRank && across.rank < limit) return false;
    const int32_t order_left = h.order[left], order_right = h.order[right];
    if (order_left < 0 && order_right < 0) return true;
    if (order_left > order_right) {
      if (order_left < limit) limit = order_left;
      left = h.right[left];
    } else {
      // Of two equal merges the one across the boundary lies further left, and comes first.
      if (order_right + int64_t{1} < limit) limit = order_right + int64_t{1};
      right = h.left[right];
    }
  }
}

}  // namespace
}  // namespace tk::bpe
