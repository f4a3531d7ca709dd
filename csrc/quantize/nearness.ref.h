// SPDX-License-Identifier: Apache-2.0
// How near codes are to a row, in double, for the scalar references.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quantize/code_search.h"

namespace tk::quantize::ref {

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

// The larger, the nearer; NaN where a vector is not finite.
template <class T>
double nearness(const T* x, const T* y, int64_t width, Metric metric) {
  const double xx = dot(x, x, width);
  const double yy = dot(y, y, width);
  const double xy = dot(x, y, width);
  if (metric == Metric::cosine) {
    const double norms = std::sqrt(xx) * std::sqrt(yy);
    return norms == 0 ? 0 : xy / norms;
  }
  const bool finite = std::max(xx, yy) <= std::numeric_limits<float>::max() && !std::isnan(xy);
  if (!finite) return std::nan("");
  return metric == Metric::dot ? xy : -squared_distance(x, y, width);
}

// What is reported of a nearness.
inline float reported(double nearness, Metric metric) {
  return static_cast<float>(metric == Metric::l2 ? 0 - nearness : nearness);
}

struct Found {
  double nearness;
  int64_t index;
};

// The finite codes of a row, the nearest first.
template <class T>
std::vector<Found> ranked_codes(const CodeSearch& s, int64_t book, int64_t row) {
  const T* x = static_cast<const T*>(s.x) + book * s.x_book_stride + row * s.x_row_stride;
  std::vector<Found> found;
  for (int64_t k = 0; k < s.codes_count; ++k) {
    const T* c = static_cast<const T*>(s.codes) + book * s.c_book_stride + k * s.c_row_stride;
    const double value = nearness(x, c, s.width, s.metric);
    if (!std::isnan(value)) found.push_back({value, k});
  }
  std::stable_sort(found.begin(), found.end(), [](Found a, Found b) { return a.nearness > b.nearness; });
  return found;
}

// The code of a rank, or what stands for a missing one.
inline void write_ranked(const std::vector<Found>& found, int64_t rank, Metric metric, int64_t missing, int64_t* index,
                         float* best) {
  const bool there = rank < static_cast<int64_t>(found.size());
  *index = there ? found[static_cast<size_t>(rank)].index : missing;
  *best = there ? reported(found[static_cast<size_t>(rank)].nearness, metric) : std::nanf("");
}

}  // namespace tk::quantize::ref
