// SPDX-License-Identifier: Apache-2.0
// Rows picked by number, packed for multiply.h. Words are floats or pairs of bfloat16 (core/bf16_dot.h); a Kind of
// pairs takes bf16_t only. Included by per-ISA files only.
//
//   copy_rows        [row][word]                  a left side
//   pack_transposed  [panel][word][kLanes]        rows become lanes, words of the width are multiplied: K of q.k
//   pack_straight    [panel][word][kLanes]        width becomes lanes, words are rows (or pairs of rows): V of p.v
#pragma once
#include "attention/multiply.h"
#include "core/transpose.h"

namespace tk::attention {
namespace {

// Rows of one sample and head; row i is data + index[i] * stride, or i itself without an index.
template <class T>
struct PickedRows {
  const T* data;
  int64_t stride;
  const int64_t* index;
  TK_MEMBER const T* row(int64_t i) const { return data + (index ? index[i] : i) * stride; }
};

// Rows that are needed soon. Rows picked by a policy are no stream that the processor foresees: each step of packing
// asks for as many of them as it packs.
template <class T>
struct RowsAhead {
  PickedRows<T> from;
  int64_t rows, width;
  TK_MEMBER void fetch(int64_t begin, int64_t end) const {
    for (int64_t i = begin; i < end && i < rows; ++i) {
      const char* row = reinterpret_cast<const char*>(from.row(i));
      for (int64_t at = 0; at < width * static_cast<int64_t>(sizeof(T)); at += 64) __builtin_prefetch(row + at, 0, 2);
    }
  }
};

TK_INLINE int64_t padded_width(int64_t width) { return round_up(width, W); }
// Floats that panels of `words` words take for `lanes` lanes.
TK_INLINE int64_t panel_floats(int64_t words, int64_t lanes) { return round_up(lanes, kLanes) * words; }

template <class T>
TK_INLINE vf load_lanes(const T* p, int64_t n) {
  return n >= W ? load(p) : load_n(p, static_cast<int>(n));
}

template <class Kind, class T>
void copy_rows(const PickedRows<T>& from, int64_t rows, int64_t width, float* to, const RowsAhead<T>& ahead = {}) {
  const int64_t words = Kind::words(width);
  const int64_t whole = Kind::whole_words(width) / W * W;
  for (int64_t i = 0; i < rows; ++i) {
    ahead.fetch(i, i + 1);
    const T* row = from.row(i);
    for (int64_t w = 0; w < whole; w += W) store(to + i * words + w, Kind::load_words(row, w));
    if (whole == words) continue;
    store_n(to + i * words + whole, Kind::load_rest(row, whole, width), static_cast<int>(words - whole));
  }
}

// W words of W rows each, to rows of `to` kLanes apart.
TK_INLINE void store_transposed(vf (&block)[W], int64_t depth, float* to) {
  transpose(block);
#pragma GCC unroll 16
  for (int k = 0; k < W; ++k) {
    if (k < depth) store(to + k * kLanes, block[k]);
  }
}

// Lanes past the end, up to a multiple of W, repeat a row.
template <class Kind, class T>
void pack_transposed(const PickedRows<T>& from, int64_t rows, int64_t width, float* to,
                     const RowsAhead<T>& ahead = {}) {
  const int64_t words = Kind::words(width);
  const int64_t whole = Kind::whole_words(width) / W * W;
  for (int64_t first = 0; first < rows; first += W) {
    ahead.fetch(first, first + W);
    const T* row[W];
    for (int i = 0; i < W; ++i) row[i] = from.row(first + i < rows ? first + i : first);
    float* panel = to + first / kLanes * words * kLanes + first % kLanes;
    vf block[W];
    for (int64_t w = 0; w < whole; w += W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) block[i] = Kind::load_words(row[i], w);
      store_transposed(block, W, panel + w * kLanes);
    }
    if (whole == words) continue;
    for (int i = 0; i < W; ++i) block[i] = Kind::load_rest(row[i], whole, width);
    store_transposed(block, words - whole, panel + whole * kLanes);
  }
}

// False where a number is NaN or infinite. Padding lanes, and the half word after an odd last row, are zeros.
template <class Kind, class T>
bool pack_straight(const PickedRows<T>& from, int64_t rows, int64_t width, float* to, const RowsAhead<T>& ahead = {}) {
  const int64_t words = Kind::kValues == 1 ? rows : (rows + 1) / 2;
  vf check[kVectors] = {};  // anything times zero: NaN unless finite
  for (int64_t w = 0; w < words; ++w) {
    const T* row = from.row(w * Kind::kValues);
    const bool paired = Kind::kValues == 2 && 2 * w + 1 < rows;
    const T* next = paired ? from.row(2 * w + 1) : row;
    ahead.fetch(w * Kind::kValues, (w + 1) * Kind::kValues);
    for (int64_t first = 0; first < width; first += kLanes) {
      float* panel = to + (first * words + w * kLanes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int64_t c = first + v * W;
        if (c >= width) break;
        vf x = load_lanes(row + c, width - c);
        check[v] = fma(x, zero(), check[v]);
        if constexpr (Kind::kValues == 2) {
          const vf y = paired ? load_lanes(next + c, width - c) : zero();
          check[v] = fma(y, zero(), check[v]);
          x = Kind::join(x, y);
        }
        store(panel + v * W, x);
      }
    }
  }
  vf all = check[0];
#pragma GCC unroll 4
  for (int v = 1; v < kVectors; ++v) all = all + check[v];
  return reduce_add(all) == 0.0f;
}

TK_INLINE vf finite_or_zero(vf x) { return select(x - x == zero(), x, zero()); }

// Panels of pack_straight with zeros where numbers are not finite.
template <class Kind>
void clear_non_finite(int64_t words, int64_t width, float* panels) {
  for (int64_t c = 0; c < padded_width(width); c += W) {
    float* column = panels + c / kLanes * words * kLanes + c % kLanes;
    for (int64_t w = 0; w < words; ++w) {
      const vf x = load(column + w * kLanes);
      if constexpr (Kind::kValues == 2) {
        store(column + w * kLanes, Kind::join(finite_or_zero(Kind::lower(x)), finite_or_zero(Kind::upper(x))));
      } else {
        store(column + w * kLanes, finite_or_zero(x));
      }
    }
  }
}

}  // namespace
}  // namespace tk::attention
