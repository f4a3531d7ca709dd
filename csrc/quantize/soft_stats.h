// SPDX-License-Identifier: Apache-2.0
// What a slice of codes says about a row, and what all slices say together. Included by per-ISA files only.
#pragma once
#include "quantize/soft_tile.h"

namespace tk::quantize {
namespace {

// Of one row, in base 2 relative to its highest score: sums of e = 2^(scale (score - top)) and of e scale (score -
// top).
struct SliceStats {
  float top, sum, weighted;
  int32_t index;  // of the highest score
};

// Scores of one row of a slice: panels [begin, end), whose first one starts at `row`.
struct SliceRow {
  float* row;
  int64_t panel_stride;
  int64_t begin, end;
};

template <class Body>
TK_INLINE void for_vectors(const SoftBook& b, const SliceRow& s, Body&& body) {
  for (int64_t p = s.begin; p < s.end; ++p) {
    float* at = s.row + (p - s.begin) * s.panel_stride;
    const int64_t codes = panel_codes(b, p);
    for (int64_t lane = 0; lane < codes; lane += W) body(at + lane, p * kLanes + lane, codes - lane);
  }
}

// The highest score, the lowest code that has it where wanted; -inf and 0 where every score is a NaN.
template <bool kIndex>
SliceStats highest(const SoftBook& b, const SliceRow& s) {
  vf high = set(-__builtin_inff());
  vi where = vi{};
  for_vectors(b, s, [&](const float* at, int64_t code, int64_t) __attribute__((always_inline)) {
    const vf score = load(at);
    if constexpr (kIndex) where = select(score > high, iota(static_cast<int32_t>(code)), where);
    high = max(score, high);
  });
  SliceStats found{reduce_max(high), 0.0f, 0.0f, 0};
  if constexpr (kIndex) {
    found.index = INT32_MAX;
    for (int i = 0; i < W; ++i) {
      if (high[i] == found.top && where[i] < found.index) found.index = where[i];
    }
  }
  return found;
}

// With kKeep powers take the place of the scores.
template <bool kIndex, bool kKeep>
SliceStats slice_stats(const SoftBook& b, const SliceRow& s, float scale) {
  SliceStats found = highest<kIndex>(b, s);
  vf sum = zero();
  vf weighted = zero();
  const vf top = set(found.top);
  for_vectors(b, s, [&](float* at, int64_t, int64_t left) __attribute__((always_inline)) {
    const vf power = keep_lanes(bound_power((load(at) - top) * scale), left);
    const vf e = keep_lanes(exp2(power), left);
    sum += e;
    weighted = fma(e, power, weighted);
    if constexpr (kKeep) store(at, e);
  });
  found.sum = reduce_add(sum);
  found.weighted = reduce_add(weighted);
  return found;
}

// 2^x for x <= 0, 0 where it is below 2^-125.
TK_INLINE float power_of(float x) { return exp2(set(x))[0]; }

// Slices in ascending order.
TK_INLINE SliceStats join_stats(const SliceStats& a, const SliceStats& b, float scale) {
  const bool later = b.top > a.top;
  const float top = later ? b.top : a.top;
  SliceStats all{top, 0.0f, 0.0f, later ? b.index : a.index};
  const SliceStats* parts[] = {&a, &b};
  for (const SliceStats* part : parts) {
    const float away = part->top == top ? 0.0f : (part->top - top) * scale;
    const float factor = power_of(away);
    all.sum += part->sum * factor;
    all.weighted += factor == 0.0f ? 0.0f : factor * (part->weighted + part->sum * away);
  }
  return all;
}

}  // namespace
}  // namespace tk::quantize
