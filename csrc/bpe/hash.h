// SPDX-License-Identifier: Apache-2.0
// The two hash functions of a vocabulary's flat tables; the same on host and device, so that tables can be handed over.
#pragma once
#include <string.h>

#include <cstdint>

#include "core/dtype.h"

namespace tk::bpe {
constexpr uint64_t kHashFactor = 0x9E3779B97F4A7C15u;

// The first n < 8 bytes as a little-endian word filled up with zeros. Reads nothing else: overlapping loads agree where
// they overlap.
TK_INLINE uint64_t short_word(const uint8_t* p, int64_t n) {
  if (n >= 4) {
    uint32_t low, high;
    memcpy(&low, p, 4);
    memcpy(&high, p + n - 4, 4);
    return low | static_cast<uint64_t>(high) << (8 * (n - 4));
  }
  if (n == 0) return 0;
  const uint64_t middle = p[n / 2], last = p[n - 1];
  return p[0] | middle << (8 * (n / 2)) | last << (8 * (n - 1));
}

// Little-endian words of eight bytes, the last one filled up with zeros; the length goes in first.
TK_INLINE uint64_t hash_bytes(const uint8_t* p, int64_t n) {
  uint64_t h = static_cast<uint64_t>(n) * kHashFactor;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    h = (h ^ word) * kHashFactor;
    h ^= h >> 32;
  }
  h = (h ^ short_word(p, n)) * kHashFactor;
  return h ^ (h >> 32);
}

// The slot of a pair is the top bits of this.
TK_INLINE uint64_t hash_pair(int32_t left, int32_t right) {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  return key * kHashFactor;
}

}  // namespace tk::bpe
