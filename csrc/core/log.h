// SPDX-License-Identifier: Apache-2.0
// The natural logarithm with the same bits on every backend, for draws that must choose the same item everywhere.
#pragma once
#include "core/dtype.h"

#if defined(__FMA__)
#include <immintrin.h>
#endif

namespace tk {

// A product that no compiler joins with a sum into one rounding (FMA), which it may do with every other. F is float or
// a vector of it, G the same or float.
template <class F, class G>
TK_INLINE F lone_product(F a, G b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#elif defined(__CUDACC__) || (defined(__x86_64__) && !defined(__FMA__))  // where there is nothing to join
  return a * b;
#else
#if defined(__FMA__)  // GCC 12 takes vectors apart at the barrier
  if constexpr (sizeof(F) == 32) return (F)__builtin_ia32_mulps256((__m256)a, (__m256)(b - F{}));
#if defined(__AVX512F__)
  if constexpr (sizeof(F) == 64) return (F)_mm512_maskz_mul_ps(0xffff, (__m512)a, (__m512)(b - F{}));
#endif
#endif
  return __builtin_assoc_barrier(a * b);
#endif
}

// ln x of normal positive x, to 0.9 ulp; F and I are float and int32_t, or vectors of them. With x = 2^e (1 + f) and
// f in [sqrt(1/2) - 1, sqrt(2) - 1]: ln x = e ln 2 + f - f^2 / 2 + f^3 P(f), P of least relative error (Remez).
template <class I, class F>
TK_INLINE F natural_log(F x) {
  const I bits = detail::bit_cast<I>(x);
  const I whole = (bits - 0x3f3504f3) & ~0x7fffff;  // the exponent in its place; 0x3f3504f3 is sqrt(1/2)
  const F f = detail::bit_cast<F>(bits - whole) - 1.0f;
  const F e = detail::bit_cast<F>((whole >> 23) + 0x4b400000) - 12582912.0f;  // as an integer behind 1.5 * 2^23
  F p = lone_product(f, -0.07634496688842773f) + 0.1276157647371292f;
  p = lone_product(p, f) - 0.13160182535648346f;
  p = lone_product(p, f) + 0.14201757311820984f;
  p = lone_product(p, f) - 0.16623356938362122f;
  p = lone_product(p, f) + 0.20001226663589478f;
  p = lone_product(p, f) - 0.2500081956386566f;
  p = lone_product(p, f) + 0.3333333134651184f;
  const F square = lone_product(f, f);
  const F tail = lone_product(p, lone_product(f, square)) - lone_product(e, 2.12194440e-4f);
  // Half a float and a product with a number of few bits are exact: joined or not, the sum is the same.
  return f + (tail - square * 0.5f) + e * 0.693359375f;
}

}  // namespace tk
