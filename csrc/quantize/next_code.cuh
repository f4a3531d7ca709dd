// SPDX-License-Identifier: Apache-2.0
// One thread a row: the codes in the order of their nearness, each found by a walk over all of them.
#pragma once
#include "core/gpu.cuh"
#include "quantize/code_search.h"

namespace tk::quantize::gpu {

constexpr int kWalkThreads = 64;

struct NextCode {
  float score = kInfinity;
  int64_t index = -1;
};

TK_INLINE float code_nan() { return detail::bit_cast<float>(uint32_t{0x7fc00000u}); }

template <class T>
TK_INLINE float chain_dot(const T* x, const T* y, int64_t width) {
  float sum = 0;
  for (int64_t d = 0; d < width; ++d) sum = fmaf(to_float(x[d]), to_float(y[d]), sum);
  return sum;
}

// 1 / |x|: 0 for a zero vector, NaN for one that is not finite.
TK_INLINE float inverse_length(float squares) {
  if (squares == 0) return 0;
  return squares < kInfinity ? 1.0f / sqrtf(squares) : code_nan();
}

template <class T>
struct RowWalk {
  const CodeSearch& s;
  const T* x;
  const T* codes;
  float squares;

  TK_HOST_DEVICE float score(int64_t k) const {
    const T* c = codes + k * s.c_row_stride;
    const float own = chain_dot(c, c, s.width);
    const float product = chain_dot(x, c, s.width);
    if (s.metric == Metric::cosine) return product * inverse_length(own);
    if (!(own < kInfinity)) return code_nan();
    return s.metric == Metric::dot ? product : product - 0.5f * own;
  }

  // The nearest of the codes behind `last`; index -1 where there is none.
  TK_HOST_DEVICE NextCode after(NextCode last) const {
    NextCode next{-kInfinity, -1};
    if (!(squares < kInfinity)) return next;
    for (int64_t k = 0; k < s.codes_count; ++k) {
      const float value = score(k);
      const bool behind = value < last.score || (value == last.score && k > last.index);
      if (behind && (value > next.score || next.index < 0)) next = NextCode{value, k};
    }
    return next;
  }

  TK_HOST_DEVICE float reported(NextCode code) const {
    if (code.index < 0) return code_nan();
    if (s.metric == Metric::cosine) return code.score * inverse_length(squares);
    return s.metric == Metric::dot ? code.score : fmaxf(squares - 2.0f * code.score, 0.0f);
  }
};

template <class T>
TK_INLINE RowWalk<T> row_walk(const CodeSearch& s, int64_t item) {
  const T* x = static_cast<const T*>(s.x) + item / s.rows * s.x_book_stride + item % s.rows * s.x_row_stride;
  const T* codes = static_cast<const T*>(s.codes) + item / s.rows * s.c_book_stride;
  return {s, x, codes, chain_dot(x, x, s.width)};
}

inline dim3 walk_blocks(const CodeSearch& s) {
  return dim3(static_cast<unsigned>((s.books * s.rows + kWalkThreads - 1) / kWalkThreads));
}

}  // namespace tk::quantize::gpu
