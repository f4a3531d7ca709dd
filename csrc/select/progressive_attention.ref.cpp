// SPDX-License-Identifier: Apache-2.0
#include "select/progressive_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tk::selection::ref {
namespace {

struct Row {
  int64_t b, h, g, i;
};

struct Query {
  std::vector<int32_t> n;
  double factor;  // of <n_i, k_j> * scale_k
};

template <class T>
Query quantised(const ProgressiveAttentionArgs& a, const Row& r) {
  const T* q = head_row<T>(a.q, r.b, r.h, r.i);
  float largest = 0.0f;
  for (int64_t d = 0; d < a.width; ++d) {
    const float size = std::fabs(to_float(q[d]));
    largest = std::isnan(size) ? INFINITY : std::max(largest, size);
  }
  const float scale = scale_of(largest, kMostQuery);
  Query query{{}, double{scale} * a.scale};
  for (int64_t d = 0; d < a.width; ++d) query.n.push_back(whole_number(to_float(q[d]), scale, kMostQuery));
  return query;
}

bool seen(const ProgressiveAttentionArgs& a, const Row& r, int64_t j) {
  return j < key_end(a, r.i) && (!a.valid || a.valid[r.b * a.keys + j]);
}

// P of one row, from both planes or from the high one.
std::vector<double> weights(const ProgressiveAttentionArgs& a, const Row& r, const Query& query, bool both) {
  std::vector<double> p(static_cast<size_t>(a.keys), 0.0);
  double most = -INFINITY;
  for (int64_t j = 0; j < a.keys; ++j) {
    if (!seen(a, r, j)) continue;
    const auto* high = head_row<int8_t>(a.high_k, r.b, r.g, j);
    const auto* low = head_row<uint8_t>(a.low_k, r.b, r.g, j);
    int64_t dot = 0;
    for (int64_t d = 0; d < a.width; ++d) {
      const int64_t k = high[d] * (1 << a.low_bits) + (both && a.low_bits > 0 ? low_value(low, d) : 0);
      dot += query.n[static_cast<size_t>(d)] * k;
    }
    double& logit = p[static_cast<size_t>(j)];
    logit = static_cast<double>(dot) * query.factor * head_scales(a.scale_k, r.b, r.g)[j];
    most = std::max(most, logit);
  }
  double sum = 0.0;
  for (int64_t j = 0; j < a.keys; ++j) {
    if (seen(a, r, j)) sum += p[static_cast<size_t>(j)] = std::exp(p[static_cast<size_t>(j)] - most);
  }
  for (double& x : p) x /= sum > 0.0 || std::isnan(sum) ? sum : 1.0;
  return p;
}

// The largest of a row; NaN where there is one.
double largest(const std::vector<double>& p) {
  double most = 0.0;
  for (const double x : p) most = x > most || std::isnan(x) ? x : most;
  return most;
}

template <class T>
void attend_row(const ProgressiveAttentionArgs& a, const Row& r) {
  const Query query = quantised<T>(a, r);
  const int64_t row = (r.b * a.heads + r.h) * a.queries + r.i;
  std::vector<double> p = weights(a, r, query, false);
  const double most = largest(p);
  const bool fetch = most > 0.0 && most < a.threshold;
  if (fetch) p = weights(a, r, query, true);
  a.fetched[row] = fetch;
  for (int64_t d = 0; d < a.width; ++d) {
    double sum = 0.0;
    for (int64_t j = 0; j < a.keys; ++j) {
      if (!seen(a, r, j)) continue;
      const double value = a.value_dtype == DType::i8
                               ? double{head_scales(a.scale_v, r.b, r.g)[j]} * head_row<int8_t>(a.v, r.b, r.g, j)[d]
                               : double{to_float(head_row<T>(a.v, r.b, r.g, j)[d])};
      sum += p[static_cast<size_t>(j)] * value;
    }
    static_cast<T*>(a.out)[row * a.width + d] = from_float<T>(static_cast<float>(sum));
  }
}

}  // namespace

void progressive_attention(const ProgressiveAttentionArgs& a) {
  for (int64_t row = 0; row < a.batch * a.heads * a.queries; ++row) {
    const int64_t head = row / a.queries;
    const Row r{head / a.heads, head % a.heads, head % a.heads / (a.heads / a.groups), row % a.queries};
    TK_FLOAT_SWITCH(a.dtype, T, attend_row<T>(a, r))
  }
}

}  // namespace tk::selection::ref
