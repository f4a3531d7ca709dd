// SPDX-License-Identifier: Apache-2.0
// The tables of a vocabulary as a device reads them: the arrays of Vocab.tables(), by pointer; see vocab_view.h.
#pragma once
#include "bpe/hash.h"
#include "core/dtype.h"

namespace tk::bpe {

struct DeviceVocab {
  const uint8_t* bytes;        // of all tokens
  const int32_t* offsets;      // (size + 1)
  const int32_t* ids;          // (size)
  const int32_t* byte_tokens;  // (256), -1 where a byte is no token
  const uint64_t* pieces;      // open addressing: upper half of the hash << 32 | token; all ones where empty
  const uint64_t* pair_keys;   // open addressing: left << 32 | right; all ones where empty
  const int32_t* pair_ranks;
  const int32_t* pair_results;
  uint64_t piece_mask;  // slots - 1
  int pair_bits;        // log2 of the slots
  int32_t size;
  int32_t longest;    // bytes of the longest token
  bool whole_piece;   // a piece that is a token is that token
  bool drop_missing;  // bytes without a token are left out; otherwise they are an error
  bool ascending;     // all occurrences of the smallest rank may merge at once: see merge_piece.cuh
};

namespace {

constexpr uint64_t kNoEntry = ~uint64_t{0};

struct DevicePair {
  int32_t rank, result;  // rank < 0: they do not merge
};

TK_INLINE DevicePair look_up_pair(const DeviceVocab& v, int32_t left, int32_t right) {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  const uint64_t mask = (uint64_t{1} << v.pair_bits) - 1;
  for (uint64_t slot = hash_pair(left, right) >> (64 - v.pair_bits);; slot = (slot + 1) & mask) {
    if (v.pair_keys[slot] == key) return {v.pair_ranks[slot], v.pair_results[slot]};
    if (v.pair_keys[slot] == kNoEntry) return {-1, -1};
  }
}

// The token with these bytes, or -1.
TK_INLINE int32_t look_up_piece(const DeviceVocab& v, const uint8_t* p, int64_t n) {
  if (n > v.longest) return -1;
  const uint64_t hash = hash_bytes(p, n);
  for (uint64_t slot = hash & v.piece_mask;; slot = (slot + 1) & v.piece_mask) {
    const uint64_t entry = v.pieces[slot];
    if (entry == kNoEntry) return -1;
    if (entry >> 32 != hash >> 32) continue;
    const auto token = static_cast<int32_t>(entry & 0xffffffffu);
    const int32_t begin = v.offsets[token];
    if (v.offsets[token + 1] - begin != n) continue;
    int64_t i = 0;
    while (i < n && v.bytes[begin + i] == p[i]) ++i;
    if (i == n) return token;
  }
}

// The token with an id, or -1; ids ascend with tokens.
TK_INLINE int32_t look_up_id(const DeviceVocab& v, int64_t id) {
  if (id >= 0 && id < v.size && v.ids[id] == id) return static_cast<int32_t>(id);
  int32_t low = 0;
  int32_t high = v.size;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (v.ids[middle] < id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < v.size && v.ids[low] == id ? low : -1;
}

}  // namespace
}  // namespace tk::bpe
