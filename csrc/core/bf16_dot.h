// SPDX-License-Identifier: Apache-2.0
// What a dot product adds up: 32-bit words that hold one float, or two bfloat16 where the processor multiplies these in
// pairs (AVX512-BF16, twice the speed). Words travel as floats; moving one changes no bit. Included by per-ISA files
// only.
#pragma once
#include "core/simd.h"

namespace tk {
namespace {

// One float a word.
struct Floats {
  static constexpr int kValues = 1;  // of a word
  static constexpr int64_t words(int64_t width) { return width; }
  static constexpr int64_t whole_words(int64_t width) { return width; }

  TK_INLINE vf dot(vf x, vf y, vf sum) { return fma(x, y, sum); }

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

// Two bfloat16 a word, the lower one first; a last half word is zero. Numbers below 2^-126 count as zeros.
struct Bf16Pairs {
  static constexpr int kValues = 2;
  static constexpr int64_t words(int64_t width) { return (width + 1) / 2; }
  static constexpr int64_t whole_words(int64_t width) { return width / 2; }

  // In assembly: as an intrinsic it would need a fourth compilation, for the one instruction set that has it.
  TK_INLINE vf dot(vf x, vf y, vf sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
  }
  TK_INLINE vf lower(vf words) { return (vf)((vu)words << 16); }
  TK_INLINE vf upper(vf words) { return (vf)((vu)words & 0xffff0000u); }
  // The words of two vectors of bfloat16 values.
  TK_INLINE vf join(vf lower, vf upper) { return (vf)((vu)lower >> 16 | (vu)upper); }

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
using Bf16Pairs = Floats;
#endif

}  // namespace
}  // namespace tk
