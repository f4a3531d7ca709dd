// SPDX-License-Identifier: Apache-2.0
// Score tiles of attention_map_ce and its gradient, in base 2: products of packed rows, or logits read as they are.
// Included by per-ISA files only.
#pragma once
#include "attention/attention_map_ce.h"
#include "attention/pack.h"
#include "attention/softmax.h"
#include "core/head_row.h"
#include "core/scratch.h"

namespace tk::attention {
namespace {

constexpr int64_t kMapRows = 96;
constexpr int64_t kMapKeys = 256;
constexpr int64_t kMapStride = kMapKeys + W;  // rows do not all start in the same set of the cache

struct MapHead {
  int64_t b, h, queries, keys;
};

// One side's scores of a tile of rows against a tile of keys; lanes past the keys are -inf.
template <class Kind, class T>
class SideTile {
 public:
  SideTile(const MapSide& side, const MapHead& head)
      : side_(side),
        head_(head),
        words_(side.is_logits() ? 0 : Kind::words(side.width)),
        queries_(kMapRows * words_),
        packed_(panel_floats(words_, kMapKeys)),
        bias_(kMapKeys),
        scores(kMapRows * kMapStride) {}

  void take_rows(int64_t first, int64_t rows) {
    first_ = first;
    rows_ = rows;
    if (side_.is_logits()) return;
    const T* q = head_row<T>(side_.rows, head_.b, head_.h, first);
    copy_rows<Kind>(PickedRows<T>{q, side_.rows.row_stride, nullptr}, rows, side_.width, queries_.data());
  }

  void meet(int64_t key, int64_t count) const {
    if (side_.is_logits()) return read_logits(key, count);
    const T* k = head_row<T>(side_.columns, head_.b, head_.h, key);
    pack_transposed<Kind>(PickedRows<T>{k, side_.columns.row_stride, nullptr}, count, side_.width, packed_.data());
    const int64_t lanes = round_up(count, W);
    for (int64_t j = 0; j < lanes; ++j) bias_[j] = j < count ? 0.0f : -kInfinity;
    multiply<Kind>(rows_, lanes, words_, RowMajor{queries_.data(), words_}, Panels{packed_.data(), words_},
                   ScoreOut{side_.scale * kLog2E, bias_.data()}, scores.data(), kMapStride);
  }

 private:
  void read_logits(int64_t key, int64_t count) const {
    for (int64_t r = 0; r < rows_; ++r) {
      const T* row = head_row<T>(side_.rows, head_.b, head_.h, first_ + r) + key;
      float* to = scores.data() + r * kMapStride;
      int64_t j = 0;
      for (; j + W <= count; j += W) store(to + j, load(row + j) * kLog2E);
      if (j < count) store(to + j, load_n(row + j, static_cast<int>(count - j), -kInfinity) * kLog2E);
    }
  }

  const MapSide& side_;
  const MapHead head_;
  int64_t words_, first_ = 0, rows_ = 0;
  Scratch<float> queries_, packed_, bias_;

 public:
  const Scratch<float> scores;  // [row][kMapStride]
};

}  // namespace
}  // namespace tk::attention
