// SPDX-License-Identifier: Apache-2.0
// One tile of queries of attention_backward, included by per-ISA files only. Scores and their gradients are computed
// transposed, keys by queries: keys and values are then read as they lie in memory, and only the tile is turned, once.
#pragma once
#include "attention/attention_backward.h"
#include "attention/backward_product.h"
#include "core/scratch.h"
#include "core/transpose.h"

namespace tk::attention {
namespace {

constexpr int kTileRows = 64;  // queries of a tile
constexpr int kTileKeys = 96;  // keys whose weights are computed together

TK_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Keys and values of one head, as words; rows are padded with zeros to whole vectors.
struct KeySide {
  const float* k;
  const float* v;
  int64_t k_stride, v_stride;  // in words
  float* grad_k;               // sums, rows of padded width
  float* grad_v;
};

// One row of T as floats, padded with zeros to `padded`, a multiple of W.
template <class T>
TK_INLINE void widen_row(const T* from, int64_t width, int64_t padded, float* to) {
  int64_t d = 0;
  for (; d + W <= width; d += W) store(to + d, load(from + d));
  if (d < padded) store(to + d, load_n(from + d, static_cast<int>(width - d)));
}

// to[d][i] = from[i][d] for kTileRows lanes i, zero from `rows` on; rows of `from` are padded to whole vectors.
void turn_rows(const float* from, int64_t stride, int64_t rows, int64_t lanes, int64_t width, float* to) {
  for (int64_t d = 0; d < width; d += W) {
    for (int64_t i = 0; i < lanes; i += W) {
      vf block[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) block[l] = i + l < rows ? load(from + (i + l) * stride + d) : zero();
      transpose(block);
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        if (d + l < width) store(to + (d + l) * kTileRows + i, block[l]);
      }
    }
  }
}

// ---- which pairs count: lanes of queries by key j of a block -------------------------------------------------------
struct AllSeen {
  TK_INLINE vf keep(int64_t, int64_t, vf x) { return x; }
};

struct IntervalSeen {
  int32_t begin[kTileRows];
  int32_t end[kTileRows];

  template <class P>
  void fill(const P& policy, const TileRows& tile, const Span& span, int64_t first_key, int64_t lanes) {
    for (int64_t i = 0; i < lanes; ++i) {
      const bool exists = tile.begin + i < tile.end;
      const Interval seen = exists ? policy.interval(tile.begin + i, span) : Interval{0, 0};
      begin[i] = static_cast<int32_t>(at_most(at_least(seen.begin - first_key, 0), kTileKeys));
      end[i] = static_cast<int32_t>(at_most(at_least(seen.end - first_key, 0), kTileKeys));
    }
  }
  __attribute__((always_inline)) vf keep(int64_t j, int64_t i, vf x) const {
    const vi key = set_int(static_cast<int32_t>(j));
    return select((key >= load_int(begin + i)) & (key < load_int(end + i)), x, zero());
  }
};

struct PairSeen {
  int32_t* seen;  // [kTileKeys][kTileRows], -1 or 0

  template <class P>
  void fill(const P& policy, const TileRows& tile, int64_t first_key, int64_t keys, int64_t lanes) {
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t i = 0; i < lanes; ++i) {
        const bool exists = tile.begin + i < tile.end;
        seen[j * kTileRows + i] = exists && policy.allowed(tile.begin + i, first_key + j) ? -1 : 0;
      }
    }
  }
  __attribute__((always_inline)) vf keep(int64_t j, int64_t i, vf x) const {
    return select(load_int(seen + j * kTileRows + i), x, zero());
  }
};

// ---- the tile
// --------------------------------------------------------------------------------------------------------
template <class Kind, class T>
class QueryTile {
 public:
  QueryTile(int64_t width, double scale)
      : width_(width),
        padded_(round_up(width, W)),
        scale_(static_cast<float>(scale)),
        q_rows_(kTileRows * padded_),
        g_rows_(kTileRows * padded_),
        q_turned_(padded_ * kTileRows),
        g_turned_(padded_ * kTileRows),
        grad_q_(kTileRows * padded_),
        weight_(kTileKeys * kTileRows),
        slope_(kTileKeys * kTileRows),
        seen_(kTileKeys * kTileRows) {}

  // shift and centre of the rows; q and grad of the first one.
  void take(const TileRows& tile, const T* q, int64_t q_stride, const T* grad, int64_t grad_stride, const float* shift,
            const float* centre) {
    tile_ = tile;
    rows_ = tile.end - tile.begin;
    lanes_ = round_up(rows_, W);
    for (int64_t i = 0; i < rows_; ++i) {
      widen_row(q + i * q_stride, width_, padded_, q_rows_.data() + i * padded_);
      widen_row(grad + i * grad_stride, width_, padded_, g_rows_.data() + i * padded_);
    }
    turn_rows(q_rows_.data(), padded_, rows_, lanes_, width_, q_turned_.data());
    turn_rows(g_rows_.data(), padded_, rows_, lanes_, width_, g_turned_.data());
    for (int64_t i = 0; i < lanes_; ++i) {
      shift_[i] = i < rows_ ? shift[i] : __builtin_inff();
      centre_[i] = i < rows_ ? centre[i] : 0.0f;
    }
    for (int64_t i = 0; i < rows_ * padded_; ++i) grad_q_[i] = 0.0f;
  }

  // bias and grad_bias may be null.
  template <class P>
  void add_span(const P& policy, const Span& span, const KeySide& keys, const float* bias, float* grad_bias) {
    for (int64_t j = span.begin; j < span.end; j += kTileKeys) {
      const int64_t count = at_most(span.end - j, kTileKeys);
      multiply_in(keys, j, count);
      if (span.full) {
        weigh(AllSeen{}, j, count, bias, grad_bias);
      } else if constexpr (P::kIntervals) {
        IntervalSeen seen;
        seen.fill(policy, tile_, span, j, lanes_);
        weigh(seen, j, count, bias, grad_bias);
      } else {
        PairSeen seen{seen_.data()};
        seen.fill(policy, tile_, j, count, lanes_);
        weigh(seen, j, count, bias, grad_bias);
      }
      multiply_out(keys, j, count);
    }
  }

  // As add_span, pair by pair: nothing hidden is touched, whatever numbers hide there.
  template <class P>
  void add_pairs(const P& policy, const Span& span, const KeySide& keys, const float* bias, float* grad_bias) {
    for (int64_t i = 0; i < rows_; ++i) {
      if (!counts(i)) continue;
      for (int64_t j = span.begin; j < span.end; ++j) {
        if (bias && bias[j] == -__builtin_inff()) continue;
        if (policy.allowed(tile_.begin + i, j)) add_pair(i, j, keys, bias ? bias[j] : 0.0f, grad_bias);
      }
    }
  }

  void write(T* grad_q) const {
    for (int64_t i = 0; i < rows_; ++i) {
      const float* from = grad_q_.data() + i * padded_;
      T* to = grad_q + i * width_;
      int64_t d = 0;
      for (; d + W <= width_; d += W) store(to + d, load(from + d));
      if (d < width_) store_n(to + d, load(from + d), static_cast<int>(width_ - d));
    }
  }

 private:
  // A row of lse -inf has a shift of +inf: exp makes zeros of it.
  bool counts(int64_t i) const { return shift_[i] != __builtin_inff(); }

  void multiply_in(const KeySide& keys, int64_t j, int64_t count) {
    product<Kind>({keys.k + j * keys.k_stride, keys.k_stride, 1, q_turned_.data(), kTileRows, Kind::words(width_),
                   weight_.data(), kTileRows, false},
                  count, lanes_);
    product<Kind>({keys.v + j * keys.v_stride, keys.v_stride, 1, g_turned_.data(), kTileRows, Kind::words(width_),
                   slope_.data(), kTileRows, false},
                  count, lanes_);
  }

  // Products become p (weight_) and scale * ds (slope_).
  template <class Seen>
  void weigh(const Seen& seen, int64_t first_key, int64_t count, const float* bias, float* grad_bias) {
    const vf scale = set(scale_);
    for (int64_t j = 0; j < count; ++j) {
      const vf add = set(bias ? bias[first_key + j] : 0.0f);
      float* weight = weight_.data() + j * kTileRows;
      float* slope = slope_.data() + j * kTileRows;
      vf sum = zero();
      for (int64_t i = 0; i < lanes_; i += W) {
        const vf score = fma(load(weight + i), scale, add);
        const vf p = seen.keep(j, i, exp(score - load(shift_ + i)));
        const vf ds = seen.keep(j, i, p * (load(slope + i) - load(centre_ + i)));
        sum = sum + ds;
        store(weight + i, p);
        store(slope + i, ds * scale);
      }
      if (grad_bias) grad_bias[first_key + j] += reduce_add(sum);
    }
  }

  void multiply_out(const KeySide& keys, int64_t j, int64_t count) {
    product<Kind>(
        {weight_.data(), kTileRows, 1, g_rows_.data(), padded_, rows_, keys.grad_v + j * padded_, padded_, true}, count,
        padded_);
    product<Kind>(
        {slope_.data(), kTileRows, 1, q_rows_.data(), padded_, rows_, keys.grad_k + j * padded_, padded_, true}, count,
        padded_);
    product<Kind>(
        {slope_.data(), 1, kTileRows, keys.k + j * keys.k_stride, keys.k_stride, count, grad_q_.data(), padded_, true},
        rows_, padded_);
  }

  float dot(const float* x, const float* y) const {
    vf sum = zero();
    for (int64_t d = 0; d < padded_; d += W) sum = fma(load(x + d), load(y + d), sum);
    return reduce_add(sum);
  }
  void add_row(float weight, const float* from, float* to) const {
    for (int64_t d = 0; d < padded_; d += W) store(to + d, fma(set(weight), load(from + d), load(to + d)));
  }
  void add_pair(int64_t i, int64_t j, const KeySide& keys, float bias, float* grad_bias) {
    const float* q = q_rows_.data() + i * padded_;
    const float* g = g_rows_.data() + i * padded_;
    const float score = scale_ * dot(q, keys.k + j * keys.k_stride) + bias;
    if (score == -__builtin_inff()) return;
    const float p = exp(set(score - shift_[i]))[0];
    const float ds = p * (dot(g, keys.v + j * keys.v_stride) - centre_[i]);
    if (grad_bias) grad_bias[j] += ds;
    add_row(p, g, keys.grad_v + j * padded_);
    add_row(ds * scale_, q, keys.grad_k + j * padded_);
    add_row(ds * scale_, keys.k + j * keys.k_stride, grad_q_.data() + i * padded_);
  }

  int64_t width_, padded_;
  float scale_;
  TileRows tile_{0, 0};
  int64_t rows_ = 0, lanes_ = 0;
  float shift_[kTileRows];
  float centre_[kTileRows];
  Scratch<float> q_rows_, g_rows_, q_turned_, g_turned_, grad_q_, weight_, slope_;
  Scratch<int32_t> seen_;
};

}  // namespace
}  // namespace tk::attention
