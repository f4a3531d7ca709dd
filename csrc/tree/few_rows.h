// SPDX-License-Identifier: Apache-2.0
// Products of a few rows with keys and values as they lie in memory: too few rows to pay for packing, so that reading
// is what takes the time. Included by per-ISA files only.
#pragma once
#include "attention/pack.h"
#include "attention/softmax.h"
#include "tree/score_columns.h"

namespace tk::tree {
namespace {

using attention::PickedRows;
using attention::RowsAhead;

// What lane i of the answer says of sum[i]: its lanes added up.
TK_INLINE vf add_lanes(vf (&sum)[W]) {
  transpose(sum);
#pragma GCC unroll 4
  for (int half = W / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) sum[i] = sum[i] + sum[i + half];
  }
  return sum[0];
}

// Products of a query, in words, with W keys, which are read one after the other: as memory likes it. With each, the
// row of the same place in what comes next is asked for: many at once would wait for each other.
template <class Kind, class T>
TK_INLINE vf dot_keys(const float* query, const T* const (&key)[W], int64_t width, const RowsAhead<T>& ahead,
                      int64_t first) {
  const int64_t words = Kind::words(width);
  const int64_t whole = Kind::whole_words(width) / W * W;
  vf sum[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) sum[i] = zero();
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    ahead.fetch(first + i, first + i + 1);
    for (int64_t w = 0; w < whole; w += W) sum[i] = Kind::dot(Kind::load_words(key[i], w), load(query + w), sum[i]);
  }
  if (whole < words) {
    const vf q = load_n(query + whole, static_cast<int>(words - whole));
    for (int i = 0; i < W; ++i) sum[i] = Kind::dot(Kind::load_rest(key[i], whole, width), q, sum[i]);
  }
  return add_lanes(sum);
}

// scores[r][i] = scale * the product of query r and key i; -inf for lanes past the end.
template <class Kind, class T>
void score_few(int64_t rows, const float* queries, const PickedRows<T>& keys, int64_t count, int64_t width, float scale,
               float* scores, int64_t stride, const RowsAhead<T>& ahead) {
  const int64_t words = Kind::words(width);
  for (int64_t first = 0; first < count; first += W) {
    const T* key[W];
    for (int i = 0; i < W; ++i) key[i] = keys.row(first + i < count ? first + i : first);
    for (int64_t r = 0; r < rows; ++r) {
      const RowsAhead<T> once{ahead.from, r == 0 ? ahead.rows : 0, width};
      store(scores + r * stride + first, dot_keys<Kind>(queries + r * words, key, width, once, first) * set(scale));
    }
  }
  const int64_t lanes = attention::round_up(count, W);
  for (int64_t r = 0; r < rows; ++r) attention::hide_lanes(scores + r * stride, count, lanes);
}

// One step of the running softmax of row r: its scores become weights, in place; earlier sums of values shrink.
TK_INLINE void weigh_row(const Running& s, int64_t r, float* scores, int64_t lanes, float* sums, int64_t width) {
  const float old = s.most[r];
  const float here = attention::largest(scores, lanes);
  const float most = here > old ? here : old;
  const float shift = most == -attention::kInfinity ? 0.0f : most;
  const vf factor = exp2(set(old - shift));
  vf sum = zero();
  for (int64_t k = 0; k < lanes; k += W) {
    const vf p = exp2(load(scores + k) - set(shift));
    sum = sum + p;
    store(scores + k, p);
  }
  s.most[r] = most;
  s.sum[r] = s.sum[r] * factor[0] + reduce_add(sum);
  for (int64_t d = 0; d < width; d += W) store(sums + d, load(sums + d) * factor);
}

// to[r][d] += sum over k of weights[r][k] * values[k][d] for R rows and V vectors of the width, of which the last may
// hold but `rest` numbers.
template <int R, int V, bool kRest, class T>
void add_block(const float* weights, int64_t stride, const PickedRows<T>& values, int64_t count, int64_t d, int rest,
               float* to, int64_t to_stride, const RowsAhead<T>& ahead) {
  vf sum[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = load(to + r * to_stride + v * W);
  }
  for (int64_t k = 0; k < count; ++k) {
    ahead.fetch(k, k + 1);
    const T* row = values.row(k) + d;
    vf value[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) value[v] = kRest && v == V - 1 ? load_n(row + v * W, rest) : load(row + v * W);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const vf weight = set(weights[r * stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = fma(weight, value[v], sum[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(to + r * to_stride + v * W, sum[r][v]);
  }
}

// As many vectors as registers hold sums of R rows for, then the rest of the width one by one.
template <int R, class T>
void add_group(const float* weights, int64_t stride, const PickedRows<T>& values, int64_t count, int64_t width,
               float* to, int64_t to_stride, RowsAhead<T> ahead) {
  constexpr int kSums = attention::kVectors == 4 ? 16 : 8;
  constexpr int V = kSums / R < 8 ? kSums / R : 8;
  int64_t d = 0;
  for (; d + V * W <= width; d += V * W) {
    add_block<R, V, false>(weights, stride, values, count, d, 0, to + d, to_stride, ahead);
    ahead.rows = 0;
  }
  for (; d + W <= width; d += W) {
    add_block<R, 1, false>(weights, stride, values, count, d, 0, to + d, to_stride, ahead);
    ahead.rows = 0;
  }
  const int rest = static_cast<int>(width - d);
  if (rest > 0) add_block<R, 1, true>(weights, stride, values, count, d, rest, to + d, to_stride, ahead);
}

template <class T>
void add_few(int64_t rows, const float* weights, int64_t stride, const PickedRows<T>& values, int64_t count,
             int64_t width, float* to, int64_t to_stride, RowsAhead<T> ahead) {
  for (int64_t r = 0; r < rows;) {
    const float* left = weights + r * stride;
    float* sums = to + r * to_stride;
    const int64_t more = rows - r;
    if (more >= 4) {
      add_group<4>(left, stride, values, count, width, sums, to_stride, ahead);
    } else if (more >= 2) {
      add_group<2>(left, stride, values, count, width, sums, to_stride, ahead);
    } else {
      add_group<1>(left, stride, values, count, width, sums, to_stride, ahead);
    }
    r += more >= 4 ? 4 : more >= 2 ? 2 : 1;
    ahead.rows = 0;
  }
}

}  // namespace
}  // namespace tk::tree
