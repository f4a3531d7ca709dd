// SPDX-License-Identifier: Apache-2.0
// 64 bytes of text in registers, and questions about them that are answered with a bit for every byte. Host only.
#pragma once
#include "core/dtype.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tk::bpe {
namespace {

#if defined(__AVX512BW__)
struct Block64 {
  __m512i v;

  TK_INLINE Block64 load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  __attribute__((always_inline)) uint64_t equal(uint8_t c) const {
    return _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(static_cast<char>(c)));
  }
  // low <= byte < low + count, of the bytes with the bits of `fold` set
  __attribute__((always_inline)) uint64_t within(uint8_t low, uint8_t count, uint8_t fold = 0) const {
    const __m512i folded = _mm512_or_si512(v, _mm512_set1_epi8(static_cast<char>(fold)));
    return _mm512_cmplt_epu8_mask(_mm512_sub_epi8(folded, _mm512_set1_epi8(static_cast<char>(low))),
                                  _mm512_set1_epi8(static_cast<char>(count)));
  }
  __attribute__((always_inline)) uint64_t high() const { return _mm512_movepi8_mask(v); }
};
#elif defined(__AVX2__)
struct Block64 {
  __m256i v[2];

  TK_INLINE Block64 load(const uint8_t* p) {
    const auto* from = reinterpret_cast<const __m256i*>(p);
    return {{_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)}};
  }
  TK_INLINE uint64_t bits(__m256i a, __m256i b) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(a)) |
           static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(b))) << 32;
  }
  __attribute__((always_inline)) uint64_t equal(uint8_t c) const {
    const __m256i all = _mm256_set1_epi8(static_cast<char>(c));
    return bits(_mm256_cmpeq_epi8(v[0], all), _mm256_cmpeq_epi8(v[1], all));
  }
  TK_INLINE __m256i lane_within(__m256i x, uint8_t low, uint8_t count, uint8_t fold) {
    x = _mm256_sub_epi8(_mm256_or_si256(x, _mm256_set1_epi8(static_cast<char>(fold))),
                        _mm256_set1_epi8(static_cast<char>(low)));
    return _mm256_cmpeq_epi8(x, _mm256_min_epu8(x, _mm256_set1_epi8(static_cast<char>(count - 1))));
  }
  __attribute__((always_inline)) uint64_t within(uint8_t low, uint8_t count, uint8_t fold = 0) const {
    return bits(lane_within(v[0], low, count, fold), lane_within(v[1], low, count, fold));
  }
  __attribute__((always_inline)) uint64_t high() const { return bits(v[0], v[1]); }
};
#elif defined(__x86_64__)
struct Block64 {
  __m128i v[4];

  TK_INLINE Block64 load(const uint8_t* p) {
    const auto* from = reinterpret_cast<const __m128i*>(p);
    return {{_mm_loadu_si128(from), _mm_loadu_si128(from + 1), _mm_loadu_si128(from + 2), _mm_loadu_si128(from + 3)}};
  }
  template <class Lane>
  __attribute__((always_inline)) uint64_t bits(Lane lane) const {
    uint64_t all = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) all |= static_cast<uint64_t>(_mm_movemask_epi8(lane(v[i]))) << (16 * i);
    return all;
  }
  __attribute__((always_inline)) uint64_t equal(uint8_t c) const {
    const __m128i all = _mm_set1_epi8(static_cast<char>(c));
    return bits([&](__m128i x) { return _mm_cmpeq_epi8(x, all); });
  }
  __attribute__((always_inline)) uint64_t within(uint8_t low, uint8_t count, uint8_t fold = 0) const {
    const __m128i set = _mm_set1_epi8(static_cast<char>(fold));
    const __m128i first = _mm_set1_epi8(static_cast<char>(low));
    const __m128i last = _mm_set1_epi8(static_cast<char>(count - 1));
    return bits([&](__m128i x) {
      x = _mm_sub_epi8(_mm_or_si128(x, set), first);
      return _mm_cmpeq_epi8(x, _mm_min_epu8(x, last));
    });
  }
  __attribute__((always_inline)) uint64_t high() const {
    return bits([](__m128i x) { return x; });
  }
};
#else
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
struct Block64 {
  Bytes16 v[4];

  TK_INLINE Block64 load(const uint8_t* p) {
    Block64 block;
    memcpy(&block, p, sizeof block);
    return block;
  }
  // Of bytes that are all ones or all zeros: one bit each is kept, and a product adds up the eight of a word.
  template <class Lane>
  __attribute__((always_inline)) uint64_t bits(Lane lane) const {
    uint64_t all = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Bytes16 yes = (Bytes16)lane(v[i]);
      uint64_t half[2];
      memcpy(half, &yes, sizeof half);
      for (int j = 0; j < 2; ++j) {
        all |= ((half[j] & 0x8040201008040201u) * 0x0101010101010101u >> 56) << (16 * i + 8 * j);
      }
    }
    return all;
  }
  __attribute__((always_inline)) uint64_t equal(uint8_t c) const {
    return bits([=](Bytes16 x) { return x == c; });
  }
  __attribute__((always_inline)) uint64_t within(uint8_t low, uint8_t count, uint8_t fold = 0) const {
    return bits([=](Bytes16 x) { return (x | fold) - low < count; });
  }
  __attribute__((always_inline)) uint64_t high() const {
    return bits([](Bytes16 x) { return x >= 0x80; });
  }
};
#endif

}  // namespace
}  // namespace tk::bpe
