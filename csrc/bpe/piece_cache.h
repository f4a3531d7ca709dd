// SPDX-License-Identifier: Apache-2.0
// Pieces seen before, with the ids they ended as, in memory of fixed size. One thread uses a cache at a time.
//
// Short pieces with few ids, which is nearly all: two entries a set, one set a cache line, so that a look-up costs one
// line whether the piece is a token or was merged. All others: entries of any size in a ring, found through an index;
// an entry holds as long as the ring has not come round to it.
#pragma once
#include <cstdint>

namespace tk::bpe {

constexpr int kCachedBytes = 15;
constexpr int kCachedIds = 4;
constexpr int kCacheBits = 16;  // sets
constexpr int32_t kLargestCachedId = (1 << 28) - 1;

struct alignas(64) CacheSet {
  // Bytes of the piece, zeros, and its length in the last place; length 0 is an empty entry.
  uint8_t key[2][16];
  // The count of ids lies above the first id.
  uint32_t ids[2][kCachedIds];
};

constexpr int kIndexBits = 15;
constexpr int64_t kRingWords = 1 << 19;  // of four bytes
constexpr int64_t kMostRingBytes = 250;  // of a piece

// Where in the ring, counted from its first word ever written; 0: nowhere.
struct RingPlace {
  uint32_t hash;
  uint32_t words;
};

struct PieceCache {
  CacheSet sets[1 << kCacheBits];
  RingPlace index[1 << kIndexBits];
  // An entry: length << 16 | count, the bytes filled up to whole words, the ids.
  uint32_t ring[kRingWords];
  uint32_t written;  // words ever; never more than kRingWords behind the place of an entry that holds
};

}  // namespace tk::bpe
