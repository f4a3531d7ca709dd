// SPDX-License-Identifier: Apache-2.0
// What a dot product of cosine_match adds up: 32-bit words that hold one float, or two bfloat16 where the processor
// multiplies these in pairs (AVX512-BF16, twice the speed). Words travel as floats; moving one changes no bit.
#pragma once
#include "core/simd.h"

namespace tk::merge {
namespace {

// One float a word. Columns are packed as unit vectors.
struct Singles {
  static constexpr bool kUnitColumns = true;
  static constexpr int64_t words(int64_t width) { return width; }
  static constexpr int64_t whole_words(int64_t width) { return width; }

  TK_INLINE vf dot(vf x, vf y, vf sum) { return fma(x, y, sum); }
  TK_INLINE vf squares(vf x, vf sum) { return fma(x, x, sum); }
  TK_INLINE double squares(float x) { return static_cast<double>(x) * x; }

  template <class T>
  TK_INLINE vf load_words(const T* row, int64_t word) {
    return load(row + word);
  }
  template <class T>
  TK_INLINE vf load_rest(const T* row, int64_t word, int64_t width) {
    return load_n(row + word, static_cast<int>(width - word));
  }
};

#if defined(__AVX512F__)
TK_INLINE bool multiplies_pairs() { return __builtin_cpu_supports("avx512bf16"); }

// Two bfloat16 a word, the lower one first; a last half word is zero. Columns are packed as they are.
struct Pairs {
  static constexpr bool kUnitColumns = false;
  static constexpr int64_t words(int64_t width) { return (width + 1) / 2; }
  static constexpr int64_t whole_words(int64_t width) { return width / 2; }

  // In assembly: as an intrinsic it would need a fourth compilation, for the one instruction set that has it.
  TK_INLINE vf dot(vf x, vf y, vf sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
  }
  TK_INLINE vf lower(vf words) { return (vf)((vu)words << 16); }
  TK_INLINE vf upper(vf words) { return (vf)((vu)words & 0xffff0000u); }
  TK_INLINE vf squares(vf x, vf sum) { return fma(upper(x), upper(x), fma(lower(x), lower(x), sum)); }
  TK_INLINE double squares(float word) {
    const uint32_t bits = detail::bit_cast<uint32_t>(word);
    const double low = detail::bit_cast<float>(bits << 16);
    const double high = detail::bit_cast<float>(bits & 0xffff0000u);
    return low * low + high * high;
  }

  TK_INLINE vf load_words(const bf16_t* row, int64_t word) {
    vf x;
    __builtin_memcpy(&x, row + 2 * word, sizeof x);
    return x;
  }
  TK_INLINE vf load_rest(const bf16_t* row, int64_t word, int64_t width) {
    vf x = zero();
    __builtin_memcpy(&x, row + 2 * word, static_cast<size_t>(width - 2 * word) * sizeof(bf16_t));
    return x;
  }
};
#else
TK_INLINE bool multiplies_pairs() { return false; }
using Pairs = Singles;
#endif

}  // namespace
}  // namespace tk::merge
