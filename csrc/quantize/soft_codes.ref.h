// SPDX-License-Identifier: Apache-2.0
// Rows against codes in double, for the references of this family's soft assignments.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/dtype.h"
#include "core/metric.h"

namespace tk::quantize::ref {
namespace {

using Numbers = std::vector<double>;

template <class T>
Numbers numbers(const void* data, int64_t offset, int64_t width) {
  const T* from = static_cast<const T*>(data) + offset;
  Numbers v(width);
  for (int64_t d = 0; d < width; ++d) v[d] = to_float(from[d]);
  return v;
}

inline double dot(const Numbers& a, const Numbers& b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

// 1 / |v|, 0 of a zero vector.
inline double inverse_norm(const Numbers& v) {
  const double squares = dot(v, v);
  return squares == 0 ? 0 : 1 / std::sqrt(squares);
}

// NaN where the code is not finite, whatever the row.
inline double score(Metric metric, const Numbers& x, const Numbers& c) {
  if (!std::isfinite(dot(c, c))) return NAN;
  if (metric == Metric::dot) return dot(x, c);
  if (metric == Metric::cosine) return dot(x, c) * inverse_norm(x) * inverse_norm(c);
  double sum = 0;
  for (size_t d = 0; d < x.size(); ++d) sum -= (x[d] - c[d]) * (x[d] - c[d]);
  return sum;
}

// to += g * d score(a, b) / da
inline void add_gradient(Metric metric, double g, const Numbers& a, const Numbers& b, Numbers* to) {
  const double scale = inverse_norm(a) * inverse_norm(b);
  const double along = dot(a, b) * inverse_norm(a) * inverse_norm(a);
  for (size_t d = 0; d < a.size(); ++d) {
    if (metric == Metric::dot) (*to)[d] += g * b[d];
    if (metric == Metric::l2) (*to)[d] += g * 2 * (b[d] - a[d]);
    if (metric == Metric::cosine) (*to)[d] += g * scale * (b[d] - along * a[d]);
  }
}

// The scores of row n of book q with every code.
template <class T, class Args>
Numbers scores(const Args& a, int64_t q, int64_t n) {
  const Numbers x = numbers<T>(a.x, q * a.x_book_stride + n * a.x_row_stride, a.width);
  Numbers s(a.codes_count);
  for (int64_t k = 0; k < a.codes_count; ++k) {
    s[k] = score(a.metric, x, numbers<T>(a.codes, q * a.c_book_stride + k * a.c_row_stride, a.width));
  }
  return s;
}

inline double log_sum_exp(const Numbers& z) {
  const double top = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (const double value : z) sum += std::exp(value - top);
  return top + std::log(sum);
}

// Scores become logarithms of probabilities; returns lse.
inline double log_softmax(double inv_temperature, Numbers* scores) {
  for (double& value : *scores) value *= inv_temperature;
  const double lse = log_sum_exp(*scores);
  for (double& value : *scores) value -= lse;
  return lse;
}

template <class Args>
double share_of(const Args& a, int64_t q, int64_t n) {
  if (!a.weight) return 1.0 / static_cast<double>(a.rows);
  const float* weight = a.weight + q * a.weight_book_stride;
  double total = 0;
  for (int64_t i = 0; i < a.rows; ++i) total += weight[i];
  return weight[n] == 0 || total == 0 ? 0 : weight[n] / total;
}

// log(max(p, floor) + add), exact where both are 0.
template <class Args>
double guarded_log(const Args& a, double log_p) {
  if (a.log_add == 0 && a.log_floor == 0) return log_p;
  return std::log(std::max(std::exp(log_p), static_cast<double>(a.log_floor)) + static_cast<double>(a.log_add));
}

}  // namespace
}  // namespace tk::quantize::ref
