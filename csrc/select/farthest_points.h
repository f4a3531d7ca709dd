// SPDX-License-Identifier: Apache-2.0
// farthest_points: k items of every sample, each the farthest from those picked before it.
//
//   x       (B, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   mask    (B, N)     0 = comes after every other item, and is nobody's partner; or null
//   starts  (B)        int64, the first pick of every sample; or null
//   order   (B, k)     int64: the items, in the order in which they were picked
//   score   (B, k)     float32: the score with which each was picked
//
// d(i, j) = max(0, 1 - cos(x_i, x_j)), where a zero row has cosine 0 with every row, or |x_i - x_j| (l2).
// Pick p >= 1 is the item of the highest score among those left; the lowest index wins a tie.
//   maxmin: score_j = min over the picks s so far of d(s, j)
//   maxsum: score_j = sum over the picks s so far of d(s, j), in their order
// The first pick is starts[b], or `start`, with score +inf; or, where that is -1, the item whose nearest other item is
// farthest, with that distance as its score (+inf where there is no other).
//
// Products and sums are in float32. For l2 the smallest distance is found, and compared, before the root is taken.
// A row with a NaN or an infinity (l2: or whose squared norm overflows float32) scores NaN. Such rows come after all
// numbers, and masked ones with score -inf after these, by ascending index; neither is a partner of others, not even
// where it is the given first pick: then maxmin scores stay at +inf, and maxsum scores at 0, until the first partner.
// A distance between finite rows that overflows float32 is +inf. Vectors with a norm outside [2^-60, 2^60] may lose
// digits or overflow. 0 <= k <= N < 2^31.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::selection {

enum class Spread : int32_t { maxmin, maxsum };

struct FarthestPointsArgs {
  const void* x;
  const uint8_t* mask;
  const int64_t* starts;
  int64_t* order;
  float* score;
  DType dtype;
  Metric metric;
  Spread mode;
  int64_t start;                         // of every sample, where `starts` is null; -1: found
  int64_t batch, rows, width, picks;     // B, N, D, k
  int64_t x_batch_stride, x_row_stride;  // in elements
};

TK_INLINE const uint8_t* mask_of(const FarthestPointsArgs& a, int64_t b) {
  return a.mask ? a.mask + b * a.rows : nullptr;
}

// -1 where the first pick has to be found.
TK_INLINE int64_t start_of(const FarthestPointsArgs& a, int64_t b) { return a.starts ? a.starts[b] : a.start; }

TK_DECLARE_OP(farthest_points, FarthestPointsArgs)

}  // namespace tk::selection
