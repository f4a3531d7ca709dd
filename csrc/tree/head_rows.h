// SPDX-License-Identifier: Apache-2.0
// Rows of h as words of a dot product, normed if asked for. Included by per-ISA files only.
#pragma once
#include "core/bf16_dot.h"
#include "core/scratch.h"
#include "tree/head_argmax_prob.h"

namespace tk::tree {
namespace {

template <class T>
TK_INLINE vf load_some(const T* row, int64_t d, int64_t width) {
  return width - d < W ? load_n(row + d, static_cast<int>(width - d)) : load(row + d);
}

template <class T>
float inverse_root_mean(const T* row, int64_t width, float eps) {
  vf squares[2] = {zero(), zero()};
  for (int64_t d = 0; d < width; d += W) {
    const vf x = load_some(row, d, width);
    squares[d / W % 2] = fma(x, x, squares[d / W % 2]);
  }
  return 1.0f / __builtin_sqrtf(reduce_add(squares[0] + squares[1]) / static_cast<float>(width) + eps);
}

// Row n as the head sees it, in its own dtype.
template <class T>
void head_row(const HeadArgmaxProbArgs& a, int64_t n, T* out) {
  const T* row = static_cast<const T*>(a.h) + n * a.h_row_stride;
  if (!a.norm_weight) {
    __builtin_memcpy(out, row, static_cast<size_t>(a.width) * sizeof(T));
    return;
  }
  const T* weight = static_cast<const T*>(a.norm_weight);
  const float inverse = inverse_root_mean(row, a.width, a.eps);
  for (int64_t d = 0; d < a.width; ++d) {
    const float unit = to_float(from_float<T>(to_float(row[d]) * inverse));
    out[d] = from_float<T>(unit * to_float(weight[d]));
  }
}

// W words from word w on; zeros past the end.
template <class Kind, class T>
TK_INLINE vf words_at(const T* row, int64_t w, int64_t width) {
  return w + W <= Kind::whole_words(width) ? Kind::load_words(row, w) : Kind::load_rest(row, w, width);
}

// Rows first.. of h, at most `room` of them and zeros for the rest: word w of row i goes to out[i * row_step + w *
// word_step]; `words` is a multiple of W.
template <class Kind, class T>
void pack_rows(const HeadArgmaxProbArgs& a, int64_t first, int64_t room, int64_t words, int64_t row_step,
               int64_t word_step, float* out) {
  const Scratch<T> row(a.width);
  for (int64_t i = 0; i < room; ++i) {
    const bool present = first + i < a.rows;
    if (present) head_row(a, first + i, row.data());
    for (int64_t w = 0; w < words; w += W) {
      float lanes[W];
      store(lanes, present && w < Kind::words(a.width) ? words_at<Kind>(row.data(), w, a.width) : zero());
      for (int64_t lane = 0; lane < W; ++lane) {
        __builtin_memcpy(out + i * row_step + (w + lane) * word_step, lanes + lane, sizeof(float));
      }
    }
  }
}

}  // namespace
}  // namespace tk::tree
