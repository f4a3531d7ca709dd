// SPDX-License-Identifier: Apache-2.0
#include "select/threshold_gate_backward.h"

#include <cmath>

namespace tk::selection::ref {
namespace {

template <class T>
void backward_items(const ThresholdGateBackwardArgs& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    const double x = (static_cast<double>(to_float(static_cast<const T*>(a.logits)[i])) + a.noise[i]) / a.tau;
    const double e = std::exp(-std::fabs(x));  // s (1 - s) is even in x
    const double slope = e / ((1 + e) * (1 + e)) / a.tau;
    static_cast<T*>(a.grad_logits)[i] =
        from_float<T>(static_cast<float>(to_float(static_cast<const T*>(a.grad)[i]) * slope));
  }
}

}  // namespace

void threshold_gate_backward(const ThresholdGateBackwardArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, backward_items<T>(a)) }

}  // namespace tk::selection::ref
