// SPDX-License-Identifier: Apache-2.0
// Pieces seen before, with the ids they ended as. Fixed size, two entries a set, one set a cache line: a look-up costs
// one line whether the piece is a token or was merged. Only short pieces with few ids are kept, which is nearly all.
#pragma once
#include <cstdint>

namespace tk::bpe {

constexpr int kCachedBytes = 15;
constexpr int kCachedIds = 4;
constexpr int kCacheBits = 14;  // sets
constexpr int32_t kLargestCachedId = (1 << 28) - 1;

struct alignas(64) CacheSet {
  // Bytes of the piece, zeros, and its length in the last place; length 0 is an empty entry.
  uint8_t key[2][16];
  // The count of ids lies above the first id.
  uint32_t ids[2][kCachedIds];
};

struct PieceCache {
  CacheSet sets[1 << kCacheBits];
};

}  // namespace tk::bpe
