// SPDX-License-Identifier: Apache-2.0
#include "merge/soft_aggregate_backward.h"

#include <algorithm>

#include "merge/soft_weights.ref.h"

namespace tk::merge::ref {
namespace {

template <class T>
double dot(const T* a, const T* b, int64_t width) {
  double sum = 0.0;
  for (int64_t c = 0; c < width; ++c) sum += double{to_float(a[c])} * double{to_float(b[c])};
  return sum;
}

template <class T>
struct OneBatch {
  const SoftAggregateBackwardArgs& a;
  int64_t b;
  SoftWeights weights{a, b};

  const T* grad(int64_t i) const {
    return static_cast<const T*>(a.grad_y) + b * a.grad_batch_stride + i * a.grad_row_stride;
  }
  const T* x(int64_t j) const { return static_cast<const T*>(a.x) + b * a.x_batch_stride + j * a.x_row_stride; }
  double share(int64_t i) const {  // a[i] of the contract
    if (!a.mass_out) return 1.0;
    const float mass = a.mass_out[b * a.targets + i];
    return mass == 0.0f ? 0.0 : 1.0 / double{mass};
  }
  double offset(int64_t i) const {  // e[i] of the contract
    const double h = a.grad_mass_out ? double{a.grad_mass_out[b * a.targets + i]} : 0.0;
    return h - share(i) * dot(grad(i), static_cast<const T*>(a.y) + (b * a.targets + i) * a.width, a.width);
  }

  void run() const {
    std::vector<double> t(a.width);
    for (int64_t j = 0; j < a.tokens; ++j) {
      double s = 0.0;
      std::fill(t.begin(), t.end(), 0.0);
      for (int64_t i = 0; i < a.targets; ++i) {
        const double weight = weights.at(i, j) * share(i);
        for (int64_t c = 0; c < a.width; ++c) t[c] += weight * double{to_float(grad(i)[c])};
        s += weight * dot(grad(i), x(j), a.width) + weights.at(i, j) * offset(i);
      }
      for (int64_t c = 0; c < a.width; ++c) {
        static_cast<T*>(a.grad_x)[(b * a.tokens + j) * a.width + c] =
            from_float<T>(static_cast<float>(weights.mass(j) * t[c]));
      }
      if (a.grad_mass) a.grad_mass[b * a.tokens + j] = static_cast<float>(s);
      for (int64_t i = 0; i < a.targets; ++i) {
        const double d = share(i) * dot(grad(i), x(j), a.width) + offset(i) - (a.mass_out ? s : 0.0);
        write_logit(i, j, weights.at(i, j) * weights.mass(j) * d);
      }
    }
  }

  void write_logit(int64_t i, int64_t j, double value) const {
    const int64_t at = (b * a.targets + i) * a.tokens + j;
    TK_FLOAT_SWITCH(a.logits_dtype, L, static_cast<L*>(a.grad_logits)[at] = from_float<L>(static_cast<float>(value)))
  }
};

}  // namespace

void soft_aggregate_backward(const SoftAggregateBackwardArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    TK_FLOAT_SWITCH(a.dtype, T, OneBatch<T>{a, b}.run())
  }
}

}  // namespace tk::merge::ref
