// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_reduce_backward.h"

#include <algorithm>
#include <vector>

namespace tk::merge::ref {
namespace {

template <class T>
struct Rows {
  const SegmentReduceBackwardArgs& a;
  int64_t b;

  int64_t segment_of(int64_t token) const {
    if (a.index.ids) return a.index.ids[b * a.index.batch_stride + token];
    const int64_t* ends = a.index.offsets + b * a.index.batch_stride + 1;
    return std::upper_bound(ends, ends + a.segments, token) - ends;
  }
  float weight(int64_t token) const { return a.weight ? a.weight[b * a.tokens + token] : 1.0f; }
  float grad(int64_t s, int64_t c) const {
    return to_float(static_cast<const T*>(a.grad)[b * a.grad_batch_stride + s * a.grad_row_stride + c]);
  }
  float x(int64_t token, int64_t c) const {
    return to_float(static_cast<const T*>(a.x)[b * a.x_batch_stride + token * a.x_row_stride + c]);
  }
  T& grad_x(int64_t token, int64_t c) const { return static_cast<T*>(a.grad_x)[(b * a.tokens + token) * a.width + c]; }
};

// Mode amax: in ascending order, a token takes over a channel when it is larger than all before it.
template <class T>
void backward_of_max(const SegmentReduceBackwardArgs& a, const Rows<T>& rows) {
  for (int64_t c = 0; c < a.width; ++c) {
    std::vector<int64_t> winner(a.segments, -1);
    for (int64_t n = 0; n < a.tokens; ++n) {
      const int64_t s = rows.segment_of(n);
      rows.grad_x(n, c) = from_float<T>(0.0f);
      if (s < 0) continue;
      const float value = rows.x(n, c);
      const float best = winner[s] < 0 ? value : rows.x(winner[s], c);
      if (winner[s] < 0 || value > best || (value != value && best == best)) winner[s] = n;
    }
    for (int64_t s = 0; s < a.segments; ++s) {
      if (winner[s] >= 0) rows.grad_x(winner[s], c) = from_float<T>(rows.grad(s, c));
    }
  }
}

template <class T>
void backward_of_sum(const SegmentReduceBackwardArgs& a, const Rows<T>& rows) {
  std::vector<double> mass(a.segments, 0), mean_dot(a.segments, 0), dot(a.tokens, 0);
  for (int64_t n = 0; n < a.tokens; ++n) {
    const int64_t s = rows.segment_of(n);
    if (s < 0) continue;
    mass[s] += rows.weight(n);
    for (int64_t c = 0; a.grad_weight && c < a.width; ++c) dot[n] += rows.x(n, c) * rows.grad(s, c);
    mean_dot[s] += rows.weight(n) * dot[n];
  }
  for (int64_t n = 0; n < a.tokens; ++n) {
    const int64_t s = rows.segment_of(n);
    const float divisor = s < 0 ? 0.0f : a.mode == SegmentMode::mean ? static_cast<float>(mass[s]) : 1.0f;
    const bool constant = divisor == 0.0f;  // no segment, or a mean over nothing
    for (int64_t c = 0; c < a.width; ++c) {
      rows.grad_x(n, c) = from_float<T>(constant ? 0.0f : rows.weight(n) / divisor * rows.grad(s, c));
    }
    if (!a.grad_weight) continue;
    const double centre = a.mode == SegmentMode::mean && !constant ? mean_dot[s] / divisor : 0.0;
    const float from_out = constant ? 0.0f : static_cast<float>((dot[n] - centre) / divisor);
    const float from_mass = a.grad_mass && s >= 0 ? a.grad_mass[rows.b * a.segments + s] : 0.0f;
    a.grad_weight[rows.b * a.tokens + n] = from_out + from_mass;
  }
}

}  // namespace

void segment_reduce_backward(const SegmentReduceBackwardArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    TK_FLOAT_SWITCH(a.dtype, T, const Rows<T> rows{a, b};
                    a.mode == SegmentMode::amax ? backward_of_max(a, rows) : backward_of_sum(a, rows));
  }
}

}  // namespace tk::merge::ref
