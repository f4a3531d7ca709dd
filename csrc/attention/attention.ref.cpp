// SPDX-License-Identifier: Apache-2.0
#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/scalar.ref.h"

namespace tk::attention::ref {
namespace {

// Scores of one query; hidden keys are -inf.
template <class T, class P>
std::vector<double> scores_of(const AttentionArgs& a, const P& policy, int64_t b, int64_t h, int64_t i) {
  const int64_t group = h / (a.shape.heads / a.shape.groups);
  std::vector<double> scores(a.shape.extents.keys, kMinusInfinity);
  for (int64_t j = 0; j < a.shape.extents.keys; ++j) {
    const double bias = bias_of(a.key_bias, b, h, j);
    if (!policy.allowed(i, j) || bias == kMinusInfinity) continue;
    const double product = dot(head_row<T>(a.q, b, h, i), head_row<T>(a.k, b, group, j), a.shape.width);
    scores[j] = a.scale * product + bias;
  }
  return scores;
}

double log_sum_exp(const std::vector<double>& scores, double extra) {
  double most = extra > 0 ? 0.0 : kMinusInfinity;
  for (const double s : scores) most = s > most || std::isnan(s) ? s : most;
  if (most == kMinusInfinity || std::isnan(most)) return most;
  double sum = extra > 0 ? extra * std::exp(-most) : 0.0;  // without it, most may be so low that the factor is infinite
  for (const double s : scores) sum += std::exp(s - most);
  return most + std::log(sum);
}

template <class T, class P>
void attend(const AttentionArgs& a, int64_t b, int64_t h) {
  const Extents& e = a.shape.extents;
  const P policy(a.policy, e, b, h);
  const int64_t group = h / (a.shape.heads / a.shape.groups);
  for (int64_t i = 0; i < e.queries; ++i) {
    const std::vector<double> scores = scores_of<T>(a, policy, b, h, i);
    const double lse = log_sum_exp(scores, a.extra);
    std::vector<double> sum(a.shape.width, std::isnan(lse) ? lse : 0.0);
    for (int64_t j = 0; j < e.keys; ++j) {
      if (scores[j] == kMinusInfinity) continue;
      const T* v = head_row<T>(a.v, b, group, j);
      for (int64_t d = 0; d < a.shape.width; ++d) sum[d] += std::exp(scores[j] - lse) * to_double(v[d]);
    }
    const int64_t row = (b * a.shape.heads + h) * e.queries + i;
    for (int64_t d = 0; d < a.shape.width; ++d) assign(static_cast<T*>(a.out) + row * a.shape.width + d, sum[d]);
    if (!a.lse) continue;
    if (a.dtype == DType::f64) {
      static_cast<double*>(a.lse)[row] = lse;
    } else {
      static_cast<float*>(a.lse)[row] = static_cast<float>(lse);
    }
  }
}

}  // namespace

void attention(const AttentionArgs& a) {
  for (int64_t b = 0; b < a.shape.batch; ++b) {
    for (int64_t h = 0; h < a.shape.heads; ++h) {
      TK_SCALAR_SWITCH(a.dtype, T, {TK_POLICY_SWITCH(a.policy.kind, P, attend<T, P>(a, b, h))})
    }
  }
}

}  // namespace tk::attention::ref
