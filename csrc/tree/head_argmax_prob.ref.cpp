// SPDX-License-Identifier: Apache-2.0
#include "tree/head_argmax_prob.h"

#include <cmath>
#include <vector>

#include "core/score_key.h"

namespace tk::tree::ref {
namespace {

// Row n of h as the head sees it.
template <class T>
std::vector<float> head_row(const HeadArgmaxProbArgs& a, int64_t n) {
  const T* h = static_cast<const T*>(a.h) + n * a.h_row_stride;
  std::vector<float> x(static_cast<size_t>(a.width));
  double squares = 0;
  for (size_t d = 0; d < x.size(); ++d) {
    x[d] = to_float(h[d]);
    squares += double{x[d]} * x[d];
  }
  if (!a.norm_weight) return x;
  const float inverse = 1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(a.width)) + a.eps);
  for (size_t d = 0; d < x.size(); ++d) {
    const float unit = to_float(from_float<T>(x[d] * inverse));
    x[d] = to_float(from_float<T>(unit * to_float(static_cast<const T*>(a.norm_weight)[d])));
  }
  return x;
}

template <class T>
void choose(const HeadArgmaxProbArgs& a, int64_t n) {
  const std::vector<float> x = head_row<T>(a, n);
  std::vector<float> z(static_cast<size_t>(a.vocabulary));
  size_t best = 0;
  for (size_t v = 0; v < z.size(); ++v) {
    const T* w = static_cast<const T*>(a.w) + static_cast<int64_t>(v) * a.w_row_stride;
    double sum = 0;
    for (size_t d = 0; d < x.size(); ++d) sum += double{x[d]} * to_float(w[d]);
    z[v] = static_cast<float>(sum);
    if (score_key(z[v]) > score_key(z[best])) best = v;
  }
  double sum = 0;
  for (const float logit : z) sum += std::exp(double{logit} - z[best]);
  a.id[n] = static_cast<int64_t>(best);
  a.prob[n] = static_cast<float>(1.0 / sum);
}

}  // namespace

void head_argmax_prob(const HeadArgmaxProbArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) {
    TK_FLOAT_SWITCH(a.dtype, T, choose<T>(a, n))
  }
}

}  // namespace tk::tree::ref
