// SPDX-License-Identifier: Apache-2.0
// Tables of 256 floats looked up 64 bytes at a time (AVX512-VBMI): a table is four planes, one for each byte of its
// floats, and a plane is four registers that two permutations search. Included by per-ISA files only.
#pragma once
#include "core/simd.h"

namespace tk::quantize {
namespace {

constexpr int64_t kGroup = 64;  // rows whose codes of one part fill a register

#if defined(__AVX512F__)
TK_INLINE bool looks_up_bytes() { return __builtin_cpu_supports("avx512vbmi"); }

typedef uint8_t vb __attribute__((vector_size(64), may_alias));
typedef uint8_t v16 __attribute__((vector_size(16), may_alias));
typedef uint8_t v16_unaligned __attribute__((vector_size(16), may_alias, aligned(1)));
typedef uint8_t vb_unaligned __attribute__((vector_size(64), may_alias, aligned(1)));

TK_INLINE vb load_bytes(const uint8_t* p) { return *reinterpret_cast<const vb_unaligned*>(p); }

// For every byte of `index` one of 128: the lower seven bits choose it. In assembly, as the bfloat16 products are.
TK_INLINE vb permute(vb index, vb lower, vb upper) {
  asm("vpermi2b %2, %1, %0" : "+v"(index) : "v"(lower), "v"(upper));
  return index;
}

// Within each 16 bytes, those of the lower or the upper eight of x and y in turns.
template <bool kUpper>
TK_INLINE vb weave_bytes(vb x, vb y) {
  vb pick;
#pragma GCC unroll 64
  for (int i = 0; i < 64; ++i) pick[i] = static_cast<uint8_t>(i / 16 * 16 + kUpper * 8 + i % 16 / 2 + i % 2 * 64);
  return __builtin_shuffle(x, y, pick);
}

// Likewise pairs of bytes. In assembly: GCC 12 takes a permutation that needs one more register.
template <bool kUpper>
TK_INLINE vb weave_pairs(vb x, vb y) {
  vb woven;
  if (kUpper) {
    asm("vpunpckhwd %2, %1, %0" : "=v"(woven) : "v"(x), "v"(y));
  } else {
    asm("vpunpcklwd %2, %1, %0" : "=v"(woven) : "v"(x), "v"(y));
  }
  return woven;
}

// A table of `count` floats as planes; what is missing to 256 is zero.
TK_INLINE void split_table(const float* table, int64_t count, uint8_t* planes) {
  for (int64_t k = 0; k < 256; k += W) {
    const int64_t left = count - k;
    const vf entries = left >= W ? load(table + k) : left > 0 ? load_n(table + k, static_cast<int>(left)) : zero();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<v16_unaligned*>(planes + i * 256 + k) = __builtin_convertvector((vu)entries >> (8 * i), v16);
    }
  }
}

// 64 entries of one plane.
TK_INLINE vb look_up_plane(vb codes, __mmask64 upper_half, const uint8_t* plane) {
  const vb low = permute(codes, load_bytes(plane), load_bytes(plane + 64));
  const vb high = permute(codes, load_bytes(plane + 128), load_bytes(plane + 192));
  return (vb)_mm512_mask_blend_epi8(upper_half, (__m512i)low, (__m512i)high);
}

// sum += table[codes]. Lane 4 l + e of sum[j] belongs to byte 16 l + 4 j + e of codes.
TK_INLINE void add_entries(vb codes, const uint8_t* planes, vf (&sum)[4]) {
  const __mmask64 upper_half = _mm512_movepi8_mask((__m512i)codes);
  const vb a = look_up_plane(codes, upper_half, planes);
  const vb b = look_up_plane(codes, upper_half, planes + 256);
  const vb c = look_up_plane(codes, upper_half, planes + 512);
  const vb d = look_up_plane(codes, upper_half, planes + 768);
  const vb ab[2] = {weave_bytes<false>(a, b), weave_bytes<true>(a, b)};
  const vb cd[2] = {weave_bytes<false>(c, d), weave_bytes<true>(c, d)};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    sum[2 * i] += (vf)weave_pairs<false>(ab[i], cd[i]);
    sum[2 * i + 1] += (vf)weave_pairs<true>(ab[i], cd[i]);
  }
}

// The bytes of kParts neighbouring parts of 64 rows, part by part: 64 for each, one row's 16 l + q-th at
// row_of<kParts>(l, q). Each turn of the loop moves the highest bit of a register's number to the lowest of a byte's.
template <int kParts>
TK_INLINE void transpose_bytes(vb (&r)[kParts]) {
#pragma GCC unroll 4
  for (int turn = 0; turn < 4; ++turn) {
    vb next[kParts];
#pragma GCC unroll 8
    for (int i = 0; i < kParts / 2; ++i) {
      next[2 * i] = weave_bytes<false>(r[i], r[i + kParts / 2]);
      next[2 * i + 1] = weave_bytes<true>(r[i], r[i + kParts / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kParts; ++i) r[i] = next[i];
  }
}

template <int kParts>
TK_INLINE int64_t row_of(int64_t lane, int64_t q) {
  constexpr int64_t kRows = 16 / kParts;  // that share 16 bytes
  return 4 * kRows * (q / kRows) + kRows * lane + q % kRows;
}

// Rows without gaps, of 4, 8 or 16 parts.
template <int kParts>
TK_INLINE void columns_of_rows(const uint8_t* rows, int64_t column_stride, uint8_t* columns) {
  vb r[kParts];
#pragma GCC unroll 16
  for (int i = 0; i < kParts; ++i) r[i] = load_bytes(rows + i * 64);
  transpose_bytes<kParts>(r);
#pragma GCC unroll 16
  for (int i = 0; i < kParts; ++i) *reinterpret_cast<vb_unaligned*>(columns + i * column_stride) = r[i];
}

// 16 parts of rows that are `stride` bytes apart.
TK_INLINE void columns_of_strided(const uint8_t* rows, int64_t stride, int64_t column_stride, uint8_t* columns) {
  uint8_t close[16 * 64];
  for (int64_t n = 0; n < kGroup; ++n) __builtin_memcpy(close + 16 * n, rows + n * stride, 16);
  columns_of_rows<16>(close, column_stride, columns);
}
#else
TK_INLINE bool looks_up_bytes() { return false; }
#endif

}  // namespace
}  // namespace tk::quantize
