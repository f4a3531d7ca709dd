// SPDX-License-Identifier: Apache-2.0
// W rows of few logits at once, one a lane: expert e of all of them is one vector of a tile. For the SIMD kernels.
#pragma once
#include "core/parallel.h"
#include "core/scratch.h"
#include "core/transpose.h"
#include "select/topk_gate.h"

namespace tk::selection {
namespace {

constexpr int64_t kLaneExperts = 512;  // whose tile stays in L1

inline int64_t tile_floats(int64_t experts) { return (experts + W - 1) / W * W * W; }

// W neighbouring rows; lanes past the last one repeat it.
template <class T>
struct LaneRows {
  const T* row[W];
  const T* end;  // nothing may be read from here on

  LaneRows(const T* first, int64_t stride, int64_t present, int64_t experts) {
    for (int i = 0; i < W; ++i) row[i] = first + (i < present ? i : present - 1) * stride;
    end = row[W - 1] + experts;
  }
};

// What a load brings in behind the end of a row stands in rows of the tile that nobody looks at.
template <class T>
inline void fill_tile(const LaneRows<T>& rows, int64_t experts, float* tile) {
  for (int64_t e = 0; e < experts; e += W) {
    vf r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const T* from = rows.row[i] + e;
      r[i] = from + W <= rows.end ? load(from) : load_n(from, static_cast<int>(rows.end - from));
    }
    transpose(r);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) store(tile + (e + i) * W, r[i]);
  }
}

// NaN is passed over.
inline vf largest_of(const float* tile, int64_t experts) {
  vf largest = set(-__builtin_inff());
  for (int64_t e = 0; e < experts; ++e) largest = max(load(tile + e * W), largest);
  return largest;
}

}  // namespace
}  // namespace tk::selection
