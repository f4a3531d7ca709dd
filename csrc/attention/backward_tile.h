// SPDX-License-Identifier: Apache-2.0
// One tile of queries of attention_backward, included by per-ISA files only. Scores and their gradients are computed
// transposed, keys by queries: keys and values are then read as they lie in memory, and only the tile is turned, once.
#pragma once
#include "attention/attention_backward.h"
#include "attention/backward_seen.h"
#include "attention/pack.h"
#include "core/exp2.h"
#include "core/scratch.h"

namespace tk::attention {
namespace {

constexpr int64_t kBlockKeys = 96;  // keys whose weights are computed together

// Pairs of bfloat16, and how floats become them.
#if defined(__AVX512F__)
struct RoundedPairs : Bf16Pairs {
  // In assembly for the same reason as Bf16Pairs::dot. Numbers below 2^-126 become zeros.
  TK_INLINE __m256i round(vf x) {
    __m256i y;
    asm("vcvtneps2bf16 %1, %0" : "=v"(y) : "v"(x));
    return y;
  }
  TK_INLINE vu widen(__m256i x) { return (vu)_mm512_maskz_cvtepu16_epi32(kAllLanes, x); }
  TK_INLINE vf round_and_join(vf lower, vf upper) { return (vf)(widen(round(lower)) | widen(round(upper)) << 16); }
  // Values i .. i + W of a row, which takes half of its floats.
  TK_INLINE void store_rounded(float* row, int64_t i, vf x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<bf16_t*>(row) + i), round(x));
  }
};
#else
using RoundedPairs = Floats;
#endif

constexpr int64_t kTouchKeys = 64;

// Sums of gradients of keys, rows of padded width. Blocks of kTouchKeys keys are cleared when they are first added to.
struct KeySums {
  float* k;
  float* v;
  uint8_t* touched;  // of every block; null: the sums start as zeros
  int64_t keys, padded;

  void touch(int64_t begin, int64_t end) const {
    for (int64_t block = begin / kTouchKeys; touched && block * kTouchKeys < end; ++block) {
      if (touched[block]) continue;
      touched[block] = 1;
      const int64_t last = at_most((block + 1) * kTouchKeys, keys) * padded;
      for (int64_t i = block * kTouchKeys * padded; i < last; ++i) k[i] = v[i] = 0.0f;
    }
  }
};

// Keys and values of one head.
template <class T>
struct KeySide {
  PickedRows<T> k, v;         // as they came
  RowMajor k_words, v_words;  // as words
  KeySums sums;
};

template <class T>
TK_INLINE float dot_rows(const T* x, const T* y, int64_t width) {
  vf sum = zero();
  for (int64_t d = 0; d < width; d += W) sum = fma(load_lanes(x + d, width - d), load_lanes(y + d, width - d), sum);
  return reduce_add(sum);
}

// `to` has padded width.
template <class T>
TK_INLINE void add_row(float weight, const T* from, int64_t width, float* to) {
  for (int64_t d = 0; d < width; d += W) {
    store(to + d, fma(set(weight), load_lanes(from + d, width - d), load(to + d)));
  }
}

template <class Kind, class T>
class GradientTile {
 public:
  GradientTile(int64_t width, double scale)
      : width_(width),
        padded_(padded_width(width)),
        words_(Kind::words(width)),
        scale_(static_cast<float>(scale)),
        q_turned_(panel_floats(words_, kTileQueries)),
        g_turned_(panel_floats(words_, kTileQueries)),
        q_straight_(panel_floats(Kind::words(kTileQueries), padded_)),
        g_straight_(panel_floats(Kind::words(kTileQueries), padded_)),
        k_straight_(panel_floats(Kind::words(kBlockKeys), padded_)),
        grad_q_(kTileQueries * padded_),
        weight_(kBlockKeys * kTileQueries),
        slope_(kBlockKeys * kTileQueries),
        joined_(Kind::kValues == 2 ? kBlockKeys / 2 * kTileQueries : 0),
        seen_(kBlockKeys * kTileQueries) {}

  // Rows of q and grad, shift and centre are those of the tile. A shift is lse * log2(e), or +inf for an lse of -inf.
  void take(const TileRows& tile, const PickedRows<T>& q, const PickedRows<T>& grad, const float* shift,
            const float* centre) {
    tile_ = tile;
    rows_ = tile.end - tile.begin;
    lanes_ = round_up(rows_, W);
    q_ = q;
    g_ = grad;
    pack_transposed<Kind>(q, rows_, width_, q_turned_.data());
    pack_transposed<Kind>(grad, rows_, width_, g_turned_.data());
    pack_straight<Kind>(q, rows_, width_, q_straight_.data());
    pack_straight<Kind>(grad, rows_, width_, g_straight_.data());
    for (int64_t i = 0; i < lanes_; ++i) {
      shift_[i] = i < rows_ ? shift[i] : kInfinity;
      centre_[i] = i < rows_ ? centre[i] : 0.0f;
    }
    for (int64_t i = 0; i < rows_ * padded_; ++i) grad_q_[i] = 0.0f;
  }

  // Every number is finite. bias and grad_bias may be null.
  template <class P>
  void add_tile(const P& policy, const KeyTile& t, const KeySide<T>& keys, const float* bias, float* grad_bias) {
    const Panels q_turned{q_turned_.data(), words_};
    const Panels g_turned{g_turned_.data(), words_};
    for (int r = 0; r < t.runs; ++r) {
      const KeyRun& run = t.run[r];
      keys.sums.touch(run.begin, run.begin + run.count);
      multiply<Kind>(run.count, lanes_, words_, keys.k_words.from(run.begin, 0), q_turned, Store{}, weight_of(run),
                     kTileQueries);
      multiply<Kind>(run.count, lanes_, words_, keys.v_words.from(run.begin, 0), g_turned, Store{}, slope_of(run),
                     kTileQueries);
      weigh_run(policy, run, bias, grad_bias);
    }
    const RowMajor slopes_by_query = by_query(t.count);
    pack_straight<Kind>(PickedRows<T>{keys.k.data, keys.k.stride, t.index}, t.count, width_, k_straight_.data());
    const int64_t depth = Kind::words(t.count);
    accumulate<Kind>(rows_, padded_, depth, ColumnMajor{slopes_by_query.data, slopes_by_query.stride},
                     Panels{k_straight_.data(), depth}, grad_q_.data(), padded_);
    for (int r = 0; r < t.runs; ++r) add_to_keys(t.run[r], keys);
  }

  // As add_tile, pair by pair: nothing hidden is touched, whatever numbers hide there.
  template <class P>
  void add_pairs(const P& policy, const KeyTile& t, const KeySide<T>& keys, const float* bias, float* grad_bias) {
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t c = 0; c < t.count && shift_[i] != kInfinity; ++c) {
        const int64_t j = t.index[c];
        if (!policy.allowed(tile_.begin + i, j) || (bias && bias[j] == -kInfinity)) continue;
        add_pair(i, j, keys, bias ? bias[j] : 0.0f, grad_bias);
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
  float* weight_of(const KeyRun& run) const { return weight_.data() + run.lane * kTileQueries; }
  float* slope_of(const KeyRun& run) const { return slope_.data() + run.lane * kTileQueries; }

  template <class P>
  void weigh_run(const P& policy, const KeyRun& run, const float* bias, float* grad_bias) {
    if (run.full) return weigh(AllSeen{}, run, bias, grad_bias);
    if constexpr (P::kIntervals) {
      IntervalSeen seen;
      seen.fill(policy, tile_, run);
      weigh(seen, run, bias, grad_bias);
    } else {
      PairSeen seen{seen_.data()};
      seen.fill(policy, tile_, run);
      weigh(seen, run, bias, grad_bias);
    }
  }

  // Products become p (weight) and scale * ds (slope).
  template <class Seen>
  void weigh(const Seen& seen, const KeyRun& run, const float* bias, float* grad_bias) {
    const vf scale = set(scale_);
    const vf scale2 = set(scale_ * kLog2E);
    for (int64_t j = 0; j < run.count; ++j) {
      const vf added = set(bias ? bias[run.begin + j] * kLog2E : 0.0f);
      float* weight = weight_of(run) + j * kTileQueries;
      float* slope = slope_of(run) + j * kTileQueries;
      vf sum = zero();
      for (int64_t i = 0; i < lanes_; i += W) {
        const vf score = fma(load(weight + i), scale2, added) - load(shift_ + i);
        const vf p = seen.keep(j, i, exp2(score));
        const vf ds = seen.keep(j, i, p * (load(slope + i) - load(centre_ + i)));
        sum = sum + ds;
        if constexpr (Kind::kValues == 2) {
          Kind::store_rounded(weight, i, p);
        } else {
          store(weight + i, p);
        }
        store(slope + i, ds * scale);
      }
      if (grad_bias) grad_bias[run.begin + j] += reduce_add(sum);
    }
  }

  // Slopes as the left side of a product over keys; pairs are joined, and the rows themselves rounded in place.
  RowMajor by_query(int64_t count) {
    if constexpr (Kind::kValues == 1) {
      return {slope_.data(), kTileQueries};
    } else {
      for (int64_t j = 0; j < count; j += 2) {
        float* lower = slope_.data() + j * kTileQueries;
        float* upper = lower + kTileQueries;
        for (int64_t i = 0; i < lanes_; i += W) {
          const vf x = load(lower + i);
          const vf y = j + 1 < count ? load(upper + i) : zero();
          store(joined_.data() + j / 2 * kTileQueries + i, Kind::round_and_join(x, y));
          Kind::store_rounded(lower, i, x);
          if (j + 1 < count) Kind::store_rounded(upper, i, y);
        }
      }
      return {joined_.data(), kTileQueries};
    }
  }

  void add_to_keys(const KeyRun& run, const KeySide<T>& keys) {
    const int64_t depth = Kind::words(rows_);
    const int64_t first = run.begin * padded_;
    accumulate<Kind>(run.count, padded_, depth, RowMajor{weight_of(run), kTileQueries},
                     Panels{g_straight_.data(), depth}, keys.sums.v + first, padded_);
    accumulate<Kind>(run.count, padded_, depth, RowMajor{slope_of(run), kTileQueries},
                     Panels{q_straight_.data(), depth}, keys.sums.k + first, padded_);
  }

  void add_pair(int64_t i, int64_t j, const KeySide<T>& keys, float bias, float* grad_bias) {
    const float product = scale_ * dot_rows(q_.row(i), keys.k.row(j), width_) + bias;
    if (product == -kInfinity) return;
    const float p = exp2(set(product * kLog2E - shift_[i]))[0];
    const float ds = p * (dot_rows(g_.row(i), keys.v.row(j), width_) - centre_[i]);
    if (grad_bias) grad_bias[j] += ds;
    keys.sums.touch(j, j + 1);
    add_row(p, g_.row(i), width_, keys.sums.v + j * padded_);
    add_row(ds * scale_, q_.row(i), width_, keys.sums.k + j * padded_);
    add_row(ds * scale_, keys.k.row(j), width_, grad_q_.data() + i * padded_);
  }

  int64_t width_, padded_, words_;
  float scale_;
  TileRows tile_{0, 0};
  int64_t rows_ = 0, lanes_ = 0;
  PickedRows<T> q_{}, g_{};
  float shift_[kTileQueries];
  float centre_[kTileQueries];
  Scratch<float> q_turned_, g_turned_, q_straight_, g_straight_, k_straight_, grad_q_, weight_, slope_, joined_;
  Scratch<int32_t> seen_;
};

}  // namespace
}  // namespace tk::attention
