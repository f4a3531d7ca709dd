// SPDX-License-Identifier: Apache-2.0
// The rows of scores that the ops of this family choose from, and the order of the items of a row.
//
// Numbers come first, the largest first (-0 equals +0), then NaN, then masked items; among equals the lowest index.
#pragma once
#include "core/op.h"
#include "core/score_key.h"

namespace tk::selection {

struct ScoreRows {
  const void* score;
  const uint8_t* mask;  // (R, N) without gaps, 0 = may not be chosen while another may; or null
  DType dtype;
  int64_t rows, width;  // R, N
  int64_t extent[2];    // of the two inner ones of up to three outer dimensions
  int64_t stride[3];    // of the outer dimensions, in elements
};

template <class T>
TK_INLINE const T* score_row(const ScoreRows& s, int64_t row) {
  const int64_t outer = row / s.extent[1];
  return static_cast<const T*>(s.score) + outer / s.extent[0] * s.stride[0] + outer % s.extent[0] * s.stride[1] +
         row % s.extent[1] * s.stride[2];
}

TK_INLINE const uint8_t* mask_row(const ScoreRows& s, int64_t row) { return s.mask ? s.mask + row * s.width : nullptr; }

constexpr uint32_t kMaskedKey = 0;  // of score_key.h, the one that no score has

// The best k of a row: the items whose key is above `key`, and the first `ties` of those equal to it.
struct KeyCut {
  uint32_t key;
  int64_t ties;
};
constexpr int64_t kAllTies = INT64_MAX;

}  // namespace tk::selection
