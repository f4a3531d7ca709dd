// SPDX-License-Identifier: Apache-2.0
// Signs as a string of bits, and back: bit c of the string is bit c % 64 of word c / 64. Included by *.simd.inc.
#pragma once
#include "core/simd.h"
#include "quantize/sign_groups.h"

namespace tk::quantize {
namespace {

constexpr int64_t kSignBlock = 512;  // groups whose bits wait on the stack

// A bit for every lane that is above zero.
TK_INLINE uint32_t positive_lanes(vf x) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)x, (__m512)zero(), _CMP_GT_OQ);
#elif defined(__AVX__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)(x > 0.0f)));
#elif defined(__x86_64__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)(x > 0.0f)));
#else
  uint32_t bits = 0;
  for (int l = 0; l < W; ++l) bits |= static_cast<uint32_t>(x[l] > 0.0f) << l;
  return bits;
#endif
}

// The signs of x, n of them; what is left of the last word is 0.
template <class T>
TK_INLINE void signs_to_words(const T* x, int64_t n, uint64_t* words) {
  int64_t c = 0;
  for (; c + 64 <= n; c += 64) {
    uint64_t word = 0;
#pragma GCC unroll 16
    for (int l = 0; l < 64; l += W) word |= uint64_t{positive_lanes(load(x + c + l))} << l;
    words[c / 64] = word;
  }
  if (c == n) return;
  uint64_t word = 0;
  for (int64_t l = 0; c + l < n; ++l) word |= uint64_t{to_float(x[c + l]) > 0.0f} << l;
  words[c / 64] = word;
}

// +scale where a bit is 1, -scale where it is 0, for W bits.
TK_INLINE vf signed_lanes(uint32_t bits, vf scale) {
#if defined(__AVX512F__)
  return (vf)_mm512_mask_blend_ps(static_cast<__mmask16>(bits), (__m512)-scale, (__m512)scale);
#else
  vi own;
#pragma GCC unroll 8
  for (int l = 0; l < W; ++l) own[l] = 1 << l;
  return select((set_int(static_cast<int32_t>(bits)) & own) != 0, scale, -scale);
#endif
}

template <class T>
TK_INLINE void words_to_signs(const uint64_t* words, int64_t n, float scale, T* x) {
  const vf wide = set(scale);
  int64_t c = 0;
  for (; c + 64 <= n; c += 64) {
    const uint64_t word = words[c / 64];
#pragma GCC unroll 16
    for (int l = 0; l < 64; l += W) store(x + c + l, signed_lanes(static_cast<uint32_t>(word >> l), wide));
  }
  for (; c < n; ++c) x[c] = from_float<T>(words[c / 64] >> c % 64 & 1 ? scale : -scale);
}

// `bits` bits of the string from position `at`; the word behind the last one may be read.
TK_INLINE uint64_t cut_bits(const uint64_t* words, int64_t at, int bits) {
  const int shift = static_cast<int>(at % 64);
  uint64_t own = words[at / 64] >> shift;
  if (shift + bits > 64) own |= words[at / 64 + 1] << (64 - shift);
  return own & ((uint64_t{1} << bits) - 1);
}

typedef uint64_t vq __attribute__((vector_size(4 * W), may_alias));
typedef uint64_t vq_unaligned __attribute__((vector_size(4 * W), may_alias, aligned(8)));

#if defined(__AVX512BW__)
constexpr uint64_t kAllBytes = ~uint64_t{0};

TK_INLINE __m512i look_up(vq table, vq at) { return _mm512_maskz_shuffle_epi8(kAllBytes, (__m512i)table, (__m512i)at); }

// As reverse_bits, of every lane: halves of bytes by a table, then the bytes.
TK_INLINE vq reverse_lanes(vq x, int bits) {
  vq low;  // 16 bytes, four times: the reverse of their position, of four bits
  vq swap;
#pragma GCC unroll 8
  for (int l = 0; l < 8; l += 2) {
    low[l] = 0x0e060a020c040800u;
    low[l + 1] = 0x0f070b030d050901u;
    swap[l] = 0x0001020304050607u;
    swap[l + 1] = 0x08090a0b0c0d0e0fu;
  }
  const vq nibbles = 0x0f0f0f0f0f0f0f0fu - vq{};
  const vq bytes = (vq)look_up(low << 4, x & nibbles) | (vq)look_up(low, x >> 4 & nibbles);
  return (vq)look_up(bytes, swap) >> static_cast<uint64_t>(64 - bits);
}

constexpr int kWindowBits = 49;  // fit a window of 64 that begins at any of the 16 bits of a half word

// Eight groups, whose bits fill whole bytes, at once; 64 bytes are read.
struct WindowCut {
  __m512i words;  // by half word of the answer: which half word of the string
  vq shift, mask;

  explicit WindowCut(int bits) {
    uint16_t from[32];
    for (int g = 0; g < 8; ++g) {
      for (int k = 0; k < 4; ++k) {
        const int word = g * bits / 16 + k;
        from[4 * g + k] = static_cast<uint16_t>(word < 32 ? word : 31);
      }
      shift[g] = static_cast<uint64_t>(g * bits % 16);
    }
    __builtin_memcpy(&words, from, sizeof(words));
    mask = ((uint64_t{1} << bits) - 1) - vq{};
  }
};

TK_INLINE vq cut_window(const WindowCut& w, const char* string) {
  const __m512i near = _mm512_loadu_si512(string);
  const auto window = (vq)_mm512_maskz_permutexvar_epi16(0xffffffffu, w.words, near);
  return window >> w.shift & w.mask;
}
#endif

// Cuts `groups` ids out of the string; 64 bytes behind it may be read.
TK_INLINE void words_to_ids(const uint64_t* words, int64_t groups, int bits, bool high_first, int64_t* ids) {
  int64_t g = 0;
#if defined(__AVX512BW__)
  if (bits <= kWindowBits) {
    const WindowCut window(bits);
    for (; g + 8 <= groups; g += 8) {
      const vq own = cut_window(window, reinterpret_cast<const char*>(words) + g / 8 * bits);
      *reinterpret_cast<vq_unaligned*>(ids + g) = high_first ? reverse_lanes(own, bits) : own;
    }
  }
#endif
  for (; g < groups; ++g) {
    const uint64_t own = cut_bits(words, g * bits, bits);
    ids[g] = static_cast<int64_t>(high_first ? reverse_bits(own, bits) : own);
  }
}

// The other way; the words hold zeros from `at` on.
TK_INLINE void put_bits(uint64_t* words, int64_t at, int bits, uint64_t own) {
  const int shift = static_cast<int>(at % 64);
  words[at / 64] |= own << shift;
  if (shift + bits > 64) words[at / 64 + 1] |= own >> (64 - shift);
}

}  // namespace
}  // namespace tk::quantize
