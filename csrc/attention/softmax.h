// SPDX-License-Identifier: Apache-2.0
// The online softmax of a tile of rows, in base 2. Included by per-ISA files only.
#pragma once
#include "attention/key_tile.h"
#include "core/exp2.h"

namespace tk::attention {
namespace {

// Of the rows of a tile of queries; arrays are padded to a multiple of W.
struct RunningRows {
  float* most;    // [row]: the largest score so far
  float* sum;     // [row][W]: sum of 2^(score - most), spread over lanes
  float* shift;   // [row]: what to subtract from the scores of the tile at hand; finite unless a score is infinite
  float* factor;  // [row]: what earlier sums are worth now
};

// An extra denominator is the weight of one more key, whose score is log2(extra) and whose value is zero.
TK_INLINE void start_rows(const RunningRows& s, int64_t rows, float extra_score) {
  for (int64_t r = 0; r < round_up(rows, W); ++r) {
    s.most[r] = extra_score;
    for (int i = 0; i < W; ++i) s.sum[r * W + i] = i == 0 && extra_score > -kInfinity ? 1.0f : 0.0f;
  }
}

// The largest of `lanes` scores, a multiple of W; NaN are left out.
TK_INLINE float largest(const float* scores, int64_t lanes) {
  vf most[2] = {set(-kInfinity), set(-kInfinity)};
  int64_t k = 0;
  for (; k + 2 * W <= lanes; k += 2 * W) {
    most[0] = max(load(scores + k), most[0]);
    most[1] = max(load(scores + k + W), most[1]);
  }
  if (k < lanes) most[0] = max(load(scores + k), most[0]);
  return reduce_max(max(most[0], most[1]));
}

// Moves the maxima on, and with them `out` [row][stride].
[[maybe_unused]] void raise_rows(const RunningRows& s, int64_t rows, const float* scores, int64_t score_stride,
                                 int64_t lanes, float* out, int64_t out_stride, int64_t out_lanes) {
  for (int64_t r = 0; r < rows; ++r) s.shift[r] = largest(scores + r * score_stride, lanes);
  for (int64_t r = 0; r < rows; r += W) {
    const vf old = load(s.most + r);
    const vf most = max(load(s.shift + r), old);
    const vf shift = select(most == -kInfinity, zero(), most);
    store(s.most + r, most);
    store(s.shift + r, shift);
    store(s.factor + r, exp2(old - shift));
  }
  for (int64_t r = 0; r < rows; ++r) {
    if (s.factor[r] == 1.0f) continue;
    const vf factor = set(s.factor[r]);
    store(s.sum + r * W, load(s.sum + r * W) * factor);
    for (int64_t c = 0; c < out_lanes; c += W) store(out + r * out_stride + c, load(out + r * out_stride + c) * factor);
  }
}

// Scores become weights, in place. A Kind of pairs: rounded to bfloat16, two a word.
template <class Kind>
void weigh_rows(const RunningRows& s, int64_t rows, float* scores, int64_t stride, int64_t lanes) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * stride;
    const vf shift = set(s.shift[r]);
    vf sum = load(s.sum + r * W);
    for (int64_t k = 0; k < lanes; k += W) {
      const vf p = exp2(load(row + k) - shift);
      sum = sum + p;
      if constexpr (Kind::kValues == 2) {
        store(reinterpret_cast<bf16_t*>(row) + k, p);
      } else {
        store(row + k, p);
      }
    }
    store(s.sum + r * W, sum);
  }
}

}  // namespace
}  // namespace tk::attention
