// SPDX-License-Identifier: Apache-2.0
#include "cluster/assign.h"

#include <cmath>
#include <limits>

namespace tk::cluster::ref {
namespace {

template <class T>
double dot(const T* x, const T* y, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(to_float(x[d])) * to_float(y[d]);
  return sum;
}

template <class T>
double squared_distance(const T* x, const T* y, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) {
    const double difference = static_cast<double>(to_float(x[d])) - to_float(y[d]);
    sum += difference * difference;
  }
  return sum;
}

template <class T>
double cosine(const T* x, const T* y, int64_t width) {
  const double norms = std::sqrt(dot(x, x, width)) * std::sqrt(dot(y, y, width));
  return norms == 0 ? 0 : dot(x, y, width) / norms;
}

// The larger, the nearer; NaN where a vector is not finite.
template <class T>
double nearness(const T* x, const T* y, int64_t width, Metric metric) {
  if (metric == Metric::cosine) return cosine(x, y, width);
  const double largest = std::fmax(dot(x, x, width), dot(y, y, width));
  const bool finite = largest <= std::numeric_limits<float>::max() && !std::isnan(dot(x, y, width));
  return finite ? -squared_distance(x, y, width) : std::nan("");
}

template <class T>
void assign_row(const AssignArgs& a, int64_t b, int64_t row) {
  const T* x = static_cast<const T*>(a.x) + b * a.x_batch_stride + row * a.x_row_stride;
  double best = std::nan("");
  int64_t label = 0;
  for (int64_t k = 0; k < a.clusters; ++k) {
    const T* c = static_cast<const T*>(a.centroids) + b * a.c_batch_stride + k * a.c_row_stride;
    const double s = nearness(x, c, a.width, a.metric);
    if (s > best || (std::isnan(best) && !std::isnan(s))) {
      best = s;
      label = k;
    }
  }
  a.labels[b * a.rows + row] = label;
  a.best[b * a.rows + row] = static_cast<float>(a.metric == Metric::l2 ? 0 - best : best);
}

}  // namespace

void assign(const AssignArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t row = 0; row < a.rows; ++row) TK_FLOAT_SWITCH(a.dtype, T, assign_row<T>(a, b, row))
  }
}

}  // namespace tk::cluster::ref
