// SPDX-License-Identifier: Apache-2.0
// The rotary embedding of one row, for the per-ISA files only.
#pragma once
#include "attention/rope_gather.h"
#include "core/head_row.h"
#include "core/simd.h"

namespace tk::attention {
namespace {

struct TableRow {
  const float* cos;
  const float* sin;
};

TK_INLINE TableRow table_row(const RopeTable& t, int64_t b, int64_t n) {
  return {t.cos + b * t.cos_batch_stride + n * t.cos_row_stride, t.sin + b * t.sin_batch_stride + n * t.sin_row_stride};
}

// One pair of vectors, `count` lanes of it. Turned by the table's angle (Way 1), or by the transposed matrix (Way -1).
template <int Way, class Load, class Store>
TK_INLINE void turn_pair(const TableRow& t, int64_t d, int64_t half, Load load_lanes, Store store_lanes) {
  const vf low = load_lanes(d);
  const vf high = load_lanes(d + half);
  const vf cos_low = load_lanes.table(t.cos + d);
  const vf cos_high = load_lanes.table(t.cos + d + half);
  const vf sin_low = load_lanes.table(t.sin + d);
  const vf sin_high = load_lanes.table(t.sin + d + half);
  if constexpr (Way > 0) {
    store_lanes(d, low * cos_low - high * sin_low);
    store_lanes(d + half, high * cos_high + low * sin_high);
  } else {
    store_lanes(d, low * cos_low + high * sin_high);
    store_lanes(d + half, high * cos_high - low * sin_low);
  }
}

template <class T>
struct WholeLanes {
  const T* x;
  __attribute__((always_inline)) vf table(const float* p) const { return load(p); }
  __attribute__((always_inline)) vf operator()(int64_t d) const { return load(x + d); }
};

template <class T>
struct FirstLanes {
  const T* x;
  int count;
  __attribute__((always_inline)) vf table(const float* p) const { return load_n(p, count); }
  __attribute__((always_inline)) vf operator()(int64_t d) const { return load_n(x + d, count); }
};

// out = R x for Way 1, out += R^T x for Way -1 (out in float32).
template <int Way, class T, class Out>
TK_INLINE void turn(const TableRow& t, const T* x, Out* out, int64_t width) {
  const int64_t half = width / 2;
  int64_t d = 0;
  for (; d + W <= half; d += W) {
    turn_pair<Way>(t, d, half, WholeLanes<T>{x}, [&](int64_t at, vf y) __attribute__((always_inline)) {
      if constexpr (Way > 0) {
        store(out + at, y);
      } else {
        store(out + at, load(out + at) + y);
      }
    });
  }
  if (d == half) return;
  const int count = static_cast<int>(half - d);
  turn_pair<Way>(t, d, half, FirstLanes<T>{x, count}, [&](int64_t at, vf y) __attribute__((always_inline)) {
    if constexpr (Way > 0) {
      store_n(out + at, y, count);
    } else {
      store_n(out + at, load_n(out + at, count) + y, count);
    }
  });
}

}  // namespace
}  // namespace tk::attention
