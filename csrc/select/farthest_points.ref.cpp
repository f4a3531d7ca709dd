// SPDX-License-Identifier: Apache-2.0
// Every score anew from its definition, in double.
#include "select/farthest_points.h"

#include <cmath>
#include <limits>
#include <vector>

namespace tk::selection::ref {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

template <class T>
double dot(const T* x, const T* y, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(to_float(x[d])) * to_float(y[d]);
  return sum;
}

// The distance; for l2 its square.
template <class T>
double gap(const T* x, const T* y, int64_t width, Metric metric) {
  if (metric == Metric::cosine) {
    const double norms = std::sqrt(dot(x, x, width)) * std::sqrt(dot(y, y, width));
    return norms == 0 ? 1 : std::fmax(0, 1 - dot(x, y, width) / norms);
  }
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += std::pow(static_cast<double>(to_float(x[d])) - to_float(y[d]), 2);
  return sum > std::numeric_limits<float>::max() ? kInf : sum;
}

template <class T>
struct Sample {
  const FarthestPointsArgs& a;
  int64_t b;

  const T* row(int64_t j) const { return static_cast<const T*>(a.x) + b * a.x_batch_stride + j * a.x_row_stride; }
  bool masked(int64_t j) const { return a.mask && !a.mask[b * a.rows + j]; }
  bool finite(int64_t j) const {
    const double squares = dot(row(j), row(j), a.width);
    return a.metric == Metric::l2 ? squares <= std::numeric_limits<float>::max() : std::isfinite(squares);
  }
  bool partner(int64_t j) const { return !masked(j) && finite(j); }
  double root(double x) const { return a.metric == Metric::l2 ? std::sqrt(x) : x; }

  // Over `others`; for maxmin of l2 the square.
  double score(int64_t j, const std::vector<int64_t>& others, Spread mode) const {
    if (masked(j)) return -kInf;
    if (!finite(j)) return std::nan("");
    double nearest = kInf;
    double sum = 0;
    for (const int64_t s : others) {
      if (s == j || !partner(s)) continue;
      nearest = std::fmin(nearest, gap(row(s), row(j), a.width, a.metric));
      sum += root(gap(row(s), row(j), a.width, a.metric));
    }
    return mode == Spread::maxmin ? nearest : sum;
  }
};

// Numbers, then NaN, then masked items, which alone have -inf.
bool before(double x, double y) {
  if (std::isnan(x) || std::isnan(y)) return std::isnan(x) ? y == -kInf : x != -kInf;
  return x > y;
}

template <class T>
void pick_from(const Sample<T>& sample) {
  const FarthestPointsArgs& a = sample.a;
  std::vector<int64_t> picks;
  std::vector<int64_t> everyone;
  std::vector<bool> picked(static_cast<size_t>(a.rows));
  for (int64_t j = 0; j < a.rows; ++j) everyone.push_back(j);
  for (int64_t p = 0; p < a.picks; ++p) {
    const bool searched = p == 0 && start_of(a, sample.b) < 0;
    const Spread mode = searched ? Spread::maxmin : a.mode;
    int64_t best = p == 0 && !searched ? start_of(a, sample.b) : -1;
    double score = kInf;
    for (int64_t j = 0; j < a.rows && (p > 0 || searched); ++j) {
      if (picked[static_cast<size_t>(j)]) continue;
      const double s = sample.score(j, searched ? everyone : picks, mode);
      if (best >= 0 && !before(s, score)) continue;
      best = j;
      score = s;
    }
    picks.push_back(best);
    picked[static_cast<size_t>(best)] = true;
    a.order[sample.b * a.picks + p] = best;
    a.score[sample.b * a.picks + p] =
        static_cast<float>(mode == Spread::maxmin && score > 0 ? sample.root(score) : score);
  }
}

}  // namespace

void farthest_points(const FarthestPointsArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) TK_FLOAT_SWITCH(a.dtype, T, pick_from(Sample<T>{a, b}))
}

}  // namespace tk::selection::ref
