// SPDX-License-Identifier: Apache-2.0
// The softmax weights of one batch in float64, for the references of soft_aggregate and its gradient.
#pragma once
#include <cmath>
#include <vector>

#include "core/dtype.h"

namespace tk::merge::ref {

class SoftWeights {
 public:
  template <class Args>
  SoftWeights(const Args& a, int64_t b)
      : tokens_(a.tokens), mass_(a.mass ? a.mass + b * a.tokens : nullptr), weight_(a.targets * a.tokens) {
    TK_FLOAT_SWITCH(a.logits_dtype, L, {
      const L* logits = static_cast<const L*>(a.logits) + b * a.logits_batch_stride;
      for (int64_t i = 0; i < a.targets; ++i) {
        for (int64_t j = 0; j < a.tokens; ++j) {
          weight_[i * a.tokens + j] = to_float(logits[i * a.logits_target_stride + j * a.logits_token_stride]);
        }
      }
    })
    if (a.mass_out) {
      for (int64_t j = 0; j < a.tokens; ++j) normalise(j, a.targets, a.tokens);
    } else {
      for (int64_t i = 0; i < a.targets; ++i) normalise(i * a.tokens, a.tokens, 1);
    }
  }

  double at(int64_t target, int64_t token) const { return weight_[target * tokens_ + token]; }
  double mass(int64_t token) const { return mass_ ? double{mass_[token]} : 1.0; }

 private:
  // Turns `count` logits into weights.
  void normalise(int64_t first, int64_t count, int64_t stride) {
    double largest = -INFINITY;
    for (int64_t k = 0; k < count; ++k) largest = std::fmax(largest, weight_[first + k * stride]);
    if (largest == -INFINITY) largest = 0.0;
    double sum = 0.0;
    for (int64_t k = 0; k < count; ++k) {
      double& w = weight_[first + k * stride];
      sum += w = std::exp(w - largest);
    }
    for (int64_t k = 0; k < count && sum != 0.0; ++k) weight_[first + k * stride] /= sum;
  }

  int64_t tokens_;
  const float* mass_;
  std::vector<double> weight_;
};

}  // namespace tk::merge::ref
