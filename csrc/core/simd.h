// SPDX-License-Identifier: Apache-2.0
// The vector vocabulary of every *.simd.inc, over GCC vector extensions. Included once per instruction set
// (x86-64-v2, v3, v4, NEON). Everything is local to its translation unit: no weak symbol may leave it.
#pragma once
#include <cstdint>

#include "core/dtype.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tk {
namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * W), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * W), may_alias));
typedef float vf_unaligned __attribute__((vector_size(4 * W), may_alias, aligned(4)));
typedef int32_t vi_unaligned __attribute__((vector_size(4 * W), may_alias, aligned(4)));
typedef uint16_t vh_unaligned __attribute__((vector_size(2 * W), may_alias, aligned(2)));
typedef int8_t vc_unaligned __attribute__((vector_size(W), may_alias, aligned(1)));

TK_INLINE vf set(float x) { return x - vf{}; }
TK_INLINE vi set_int(int32_t x) { return x - vi{}; }
TK_INLINE vf zero() { return vf{}; }

TK_INLINE vi iota(int32_t start) {
  vi r;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) r[i] = start + i;
  return r;
}

// ---- memory -------------------------------------------------------------------------------------------------
TK_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
TK_INLINE vi load_int(const int32_t* p) { return *reinterpret_cast<const vi_unaligned*>(p); }
TK_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
TK_INLINE void store_int(int32_t* p, vi x) { *reinterpret_cast<vi_unaligned*>(p) = x; }

// Round to nearest even; a NaN keeps its sign and becomes quiet, as from_float<bf16_t> does.
TK_INLINE void store(bf16_t* p, vf x) {
  const vu u = (vu)x;
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const vu quiet = (u >> 16) | 0x40u;
  const vu bits = (x == x) ? rounded : quiet;
  *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector(bits, vh);
}

#if defined(__F16C__)
constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT;
#endif
#if defined(__AVX512F__)
constexpr __mmask16 kAllLanes = 0xffff;  // GCC 12 warns inside its own header about the forms without a mask
#endif

TK_INLINE vf load(const bf16_t* p) {
#if defined(__AVX512F__)  // GCC 12 makes two halves of the conversion
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const vu wide = (vu)_mm512_maskz_cvtepu16_epi32(kAllLanes, h);
#else
  const vu wide = __builtin_convertvector(*reinterpret_cast<const vh_unaligned*>(p), vu);
#endif
  return (vf)(wide << 16);
}

TK_INLINE vf load(const f16_t* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_cvtph_ps(kAllLanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vf r;
  for (int i = 0; i < W; ++i) r[i] = to_float(p[i]);
  return r;
#endif
}

TK_INLINE vf load(const int8_t* p) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_maskz_cvtepi8_epi32(kAllLanes, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return (vf)_mm512_maskz_cvtepi32_ps(kAllLanes, wide);
#else
  return __builtin_convertvector(*reinterpret_cast<const vc_unaligned*>(p), vf);
#endif
}

TK_INLINE void store(f16_t* p, vf x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(kAllLanes, (__m512)x, kNearest));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, kNearest));
#else
  for (int i = 0; i < W; ++i) p[i] = from_float<f16_t>(x[i]);
#endif
}

// The first n < W lanes; the others read as `fill` and are never written.
template <class T>
TK_INLINE vf load_n(const T* p, int n, float fill = 0.0f) {
  vf r = set(fill);
  for (int i = 0; i < n; ++i) r[i] = to_float(p[i]);
  return r;
}

template <class T>
TK_INLINE void store_n(T* p, vf x, int n) {
  for (int i = 0; i < n; ++i) p[i] = from_float<T>(x[i]);
}

#if defined(__AVX512F__)
TK_INLINE vf load_n(const float* p, int n, float fill = 0.0f) {
  return (vf)_mm512_mask_loadu_ps((__m512)set(fill), static_cast<__mmask16>((1u << n) - 1u), p);
}
TK_INLINE void store_n(float* p, vf x, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), (__m512)x);
}
#endif

// ---- arithmetic ---------------------------------------------------------------------------------------------
TK_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }  // contracted where the instruction exists
TK_INLINE vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }
TK_INLINE vi select(vi mask, vi yes, vi no) { return mask ? yes : no; }
TK_INLINE vf max(vf a, vf b) { return a > b ? a : b; }  // returns b where either is NaN
TK_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
TK_INLINE vf abs(vf x) { return (vf)((vi)x & 0x7fffffff); }

// ---- reductions: a fixed tree, so that the result does not depend on anything but the lanes --------------------
// `combine` takes two vectors. Rotating keeps the sums in registers.
template <int half, class Combine>
TK_INLINE vf combine_halves(vf x, Combine combine) {
  if constexpr (half == 0) {
    return x;
  } else {
    vi other;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) other[i] = (i + half) % W;
    return combine_halves<half / 2>(combine(x, (vf)__builtin_shuffle(x, other)), combine);
  }
}
template <class Combine>
TK_INLINE float reduce(vf x, Combine combine) {
  return combine_halves<W / 2>(x, combine)[0];
}
TK_INLINE float reduce_add(vf x) {
  return reduce(x, [](vf a, vf b) __attribute__((always_inline)) { return a + b; });
}
TK_INLINE float reduce_max(vf x) {
  return reduce(x, [](vf a, vf b) __attribute__((always_inline)) { return max(a, b); });
}

// e^x to 2 ulp for x <= 88; below -87.3 the result is 0, above 88.7 infinity, NaN stays NaN.
TK_INLINE vf exp(vf x) {
  const vf clamped = min(max(x, set(-88.0f)), set(88.8f));
  const vf scaled = clamped * 1.44269504088896341f;
  // Adding and subtracting 1.5 * 2^23 rounds to an integer.
  const vf n = (scaled + 12582912.0f) - 12582912.0f;
  vf r = fma(n, set(-0.693359375f), clamped);
  r = fma(n, set(2.12194440e-4f), r);
  vf p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  const vf y = fma(p, r * r, r) + 1.0f;
  // 2^n in two factors: n reaches 128, one past the largest exponent.
  const vi whole = __builtin_convertvector(n, vi);
  const vi half = whole >> 1;
  const vf lower = (vf)((half + 127) << 23);
  const vf upper = (vf)((whole - half + 127) << 23);
  const vf e = y * lower * upper;
  const vf floored = select(x < -87.33654f, zero(), e);
  return select(x == x, select(x > 88.72284f, set(__builtin_inff()), floored), x);
}

}  // namespace
}  // namespace tk
