// SPDX-License-Identifier: Apache-2.0
// Products of a few queries of 16-bit numbers with keys in bit-planes, exact in 32 bits. Included by per-ISA files
// only.
//
// A block is R queries and W / R keys: one vector of sums for each pair, folded to one lane each at the end.
#pragma once
#include "core/simd.h"
#include "select/plane_lanes.h"

namespace tk::selection {
namespace {

typedef int16_t vs __attribute__((vector_size(4 * W), may_alias));
typedef int16_t vs_unaligned __attribute__((vector_size(4 * W), may_alias, aligned(2)));
typedef int8_t vc2 __attribute__((vector_size(2 * W), may_alias, aligned(1)));
typedef uint8_t vb __attribute__((vector_size(W), may_alias, aligned(1)));

constexpr int kStep = 2 * W;  // channels of a vector

// Sums of neighbouring products: lane i is a[2i] b[2i] + a[2i+1] b[2i+1]. AVX512-VNNI would add them up in the same
// instruction: measured, that is worth 5 % for 16 queries and nothing for one.
TK_INLINE vi multiply_pairs(vs a, vs b) {
#if defined(__AVX512BW__)
  return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  const vi x = (vi)a, y = (vi)b;
  return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

struct HighPlane {
  static constexpr int kBytes = kStep;  // of a vector of channels
  TK_INLINE vs load(const uint8_t* p) {
#if defined(__AVX512BW__)
    return (vs)_mm512_maskz_cvtepi8_epi16(0xffffffffu, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
    return (vs)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__SSE4_1__)
    return (vs)_mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
    return __builtin_convertvector(*reinterpret_cast<const vc2*>(p), vs);
#endif
  }
};

struct LowPlane {
  static constexpr int kBytes = W;
  TK_INLINE vs load(const uint8_t* p) {
#if defined(__AVX512F__)
    const auto pairs = (vu)_mm512_maskz_cvtepu8_epi32(kAllLanes, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    const vu pairs = __builtin_convertvector(*reinterpret_cast<const vb*>(p), vu);
#endif
    return (vs)((pairs & 15u) | (pairs << 12 & 0xf0000u));
  }
};

// Keys of one head in one plane: rows of `bytes`, `stride` apart.
struct PlaneRows {
  const uint8_t* data;
  int64_t stride, bytes;
};

// What is left of a row behind whole vectors, as a whole vector of bytes.
TK_INLINE const uint8_t* padded_rest(const uint8_t* p, int64_t bytes, uint8_t* room, int64_t size) {
  __builtin_memset(room, 0, static_cast<size_t>(size));
  __builtin_memcpy(room, p, static_cast<size_t>(bytes));
  return room;
}

// N vectors become one of N / 2, and so on: the lanes of x[0] end up in lane 0 of the answer, those of x[1] in lane 1.
template <int N>
TK_INLINE vi fold_lanes(vi* x) {
  if constexpr (N == 1) {
    return x[0];
  } else {
    vi lower, upper;
#pragma GCC unroll 16
    for (int l = 0; l < W; ++l) {
      const int start = l / N * N, at = l % N;
      lower[l] = at < N / 2 ? start + at : W + start + at - N / 2;
      upper[l] = at < N / 2 ? start + at + N / 2 : W + start + at;
    }
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      x[i] = __builtin_shuffle(x[i], x[i + N / 2], lower) + __builtin_shuffle(x[i], x[i + N / 2], upper);
    }
    return fold_lanes<N / 2>(x);
  }
}

// Products of R queries (padded to whole vectors with zeros) with keys [key, key + W / R), those from `keys` on left
// out: lane r * (W / R) + c is query r, key `key` + c.
template <class Plane, int R>
TK_INLINE vi multiply_block(const int16_t* const* q, const PlaneRows& plane, int64_t key, int64_t keys) {
  constexpr int kKeys = W / R;
  const uint8_t* row[kKeys];
#pragma GCC unroll 16
  for (int c = 0; c < kKeys; ++c) row[c] = plane.data + (key + c < keys ? key + c : keys - 1) * plane.stride;
  vi sum[W];
#pragma GCC unroll 16
  for (int l = 0; l < W; ++l) sum[l] = vi{};
  const auto add = [&](int64_t step, auto&& bytes_of) __attribute__((always_inline)) {
    vs query[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) query[r] = *reinterpret_cast<const vs_unaligned*>(q[r] + step * kStep);
#pragma GCC unroll 16
    for (int c = 0; c < kKeys; ++c) {
      const vs k = Plane::load(bytes_of(c));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r * kKeys + c] += multiply_pairs(query[r], k);
    }
  };
  const int64_t whole = plane.bytes / Plane::kBytes;
  const int64_t rest = plane.bytes - whole * Plane::kBytes;
  for (int64_t step = 0; step < whole; ++step) {
    add(step, [&](int c) __attribute__((always_inline)) { return row[c] + step * Plane::kBytes; });
  }
  if (rest > 0) {
    uint8_t room[Plane::kBytes];
    add(whole, [&](int c) __attribute__((always_inline)) {
      return padded_rest(row[c] + whole * Plane::kBytes, rest, room, Plane::kBytes);
    });
  }
  return fold_lanes<W>(sum);
}

// to[r][j] = to[r][j] + product * factor (Add) or product * factor, for keys [begin, end) of R queries. `to` has room
// for whole vectors; begin is a multiple of W.
template <class Plane, bool Add, int R>
void multiply_keys(const int16_t* const* q, const PlaneRows& plane, int64_t begin, int64_t end, float factor,
                   float* const* to) {
  constexpr int kKeys = W / R;
  for (int64_t key = begin; key < end; key += kKeys) {
    const vf x = __builtin_convertvector(multiply_block<Plane, R>(q, plane, key, end), vf) * factor;
    if constexpr (R == 1) {
      store(to[0] + key, Add ? load(to[0] + key) + x : x);
    } else {
      float room[W];
      store(room, x);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        float* at = to[r] + key;
        for (int c = 0; c < kKeys; ++c) at[c] = Add ? at[c] + room[r * kKeys + c] : room[r * kKeys + c];
      }
    }
  }
}

// The same for any number of queries.
template <class Plane, bool Add>
void multiply_queries(const int16_t* const* q, int64_t rows, const PlaneRows& plane, int64_t begin, int64_t end,
                      float factor, float* const* to) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) multiply_keys<Plane, Add, 4>(q + r, plane, begin, end, factor, to + r);
  for (; r < rows; ++r) multiply_keys<Plane, Add, 1>(q + r, plane, begin, end, factor, to + r);
}

}  // namespace
}  // namespace tk::selection
