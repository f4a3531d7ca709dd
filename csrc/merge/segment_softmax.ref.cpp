// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_softmax.h"

#include <cmath>
#include <limits>

namespace tk::merge::ref {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
void softmax(const T* x, T* out, int64_t count) {
  float largest = -kInfinity;
  for (int64_t i = 0; i < count; ++i) {
    const float value = to_float(x[i]);
    if (value > largest || value != value) largest = value;
    if (largest != largest) break;
  }
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(to_float(x[i]) - largest);
  for (int64_t i = 0; i < count; ++i) {
    const double e = std::exp(to_float(x[i]) - largest);
    out[i] = from_float<T>(largest == -kInfinity ? 0.0f : static_cast<float>(e / sum));
  }
}

template <class T>
void softmax_backward(const T* grad, const T* p, T* out, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += to_float(grad[i]) * to_float(p[i]);
  for (int64_t i = 0; i < count; ++i) {
    out[i] = from_float<T>(static_cast<float>(to_float(p[i]) * (to_float(grad[i]) - sum)));
  }
}

}  // namespace

void segment_softmax(const SegmentSoftmaxArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t* offsets = a.offsets + b * a.offsets_batch_stride;
    for (int64_t s = 0; s < a.segments; ++s) {
      TK_FLOAT_SWITCH(a.dtype, T,
                      softmax(static_cast<const T*>(a.scores) + b * a.scores_batch_stride + offsets[s],
                              static_cast<T*>(a.out) + b * a.tokens + offsets[s], offsets[s + 1] - offsets[s]));
    }
  }
}

void segment_softmax_backward(const SegmentSoftmaxBackwardArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t* offsets = a.offsets + b * a.offsets_batch_stride;
    for (int64_t s = 0; s < a.segments; ++s) {
      TK_FLOAT_SWITCH(
          a.dtype, T,
          softmax_backward(static_cast<const T*>(a.grad) + b * a.grad_batch_stride + offsets[s],
                           static_cast<const T*>(a.p) + b * a.p_batch_stride + offsets[s],
                           static_cast<T*>(a.grad_scores) + b * a.tokens + offsets[s], offsets[s + 1] - offsets[s]));
    }
  }
}

}  // namespace tk::merge::ref
