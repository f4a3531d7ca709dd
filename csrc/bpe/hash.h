// SPDX-License-Identifier: Apache-2.0
// The two hash functions of a vocabulary's flat tables; the same on host and device, so that tables can be handed over.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace tk::bpe {
namespace {

constexpr uint64_t kHashFactor = 0x9E3779B97F4A7C15u;

// Little-endian words of eight bytes, the last one filled with zeros; the length goes in first.
TK_INLINE uint64_t hash_bytes(const uint8_t* p, int64_t n) {
  uint64_t h = static_cast<uint64_t>(n) * kHashFactor;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    h = (h ^ word) * kHashFactor;
    h ^= h >> 32;
  }
  uint64_t word = 0;
  for (int64_t i = 0; i < n; ++i) word |= static_cast<uint64_t>(p[i]) << (8 * i);
  h = (h ^ word) * kHashFactor;
  return h ^ (h >> 32);
}

// The slot of a pair is the top bits of this.
TK_INLINE uint64_t hash_pair(int32_t left, int32_t right) {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  return key * kHashFactor;
}

}  // namespace
}  // namespace tk::bpe
