// SPDX-License-Identifier: Apache-2.0
#include "cluster/update.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tk::cluster::ref {
namespace {

template <class T>
double norm(const T* x, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(to_float(x[d])) * to_float(x[d]);
  return std::sqrt(sum);
}

template <class T>
void sum_rows(const UpdateArgs& a, int64_t b, float* sums) {
  std::vector<double> exact(static_cast<size_t>(a.clusters * a.width));
  std::fill_n(a.counts + b * a.clusters, a.clusters, 0);
  for (int64_t n = 0; n < a.rows; ++n) {
    const T* x = static_cast<const T*>(a.x) + b * a.x_batch_stride + n * a.x_row_stride;
    const int64_t k = a.labels[b * a.rows + n];
    const double length = a.metric == Metric::cosine ? norm(x, a.width) : 1;
    ++a.counts[b * a.clusters + k];
    for (int64_t d = 0; d < a.width && length != 0; ++d) exact[k * a.width + d] += to_float(x[d]) / length;
  }
  std::copy(exact.begin(), exact.end(), sums);
}

template <class T>
float place_centroid(const UpdateArgs& a, int64_t b, int64_t k, const float* sum) {
  const T* old = static_cast<const T*>(a.old) + b * a.old_batch_stride + k * a.old_row_stride;
  T* out = static_cast<T*>(a.centroids) + (b * a.clusters + k) * a.width;
  const int64_t count = a.counts[b * a.clusters + k];
  const double length = count == 0 ? 0 : a.metric == Metric::cosine ? norm(sum, a.width) : static_cast<double>(count);
  double moved = 0;
  for (int64_t d = 0; d < a.width; ++d) {
    out[d] = length == 0 ? old[d] : from_float<T>(static_cast<float>(sum[d] / length));
    const double step = static_cast<double>(to_float(out[d])) - to_float(old[d]);
    if (length != 0) moved += step * step;
  }
  return static_cast<float>(std::sqrt(moved));
}

template <class T>
void update_sample(const UpdateArgs& a, int64_t b) {
  std::vector<float> own(a.sums ? 0 : static_cast<size_t>(a.clusters * a.width));
  float* sums = a.sums ? a.sums + b * a.clusters * a.width : own.data();
  if (a.add_rows) sum_rows<T>(a, b, sums);
  if (!a.move_centroids) return;
  float shift = 0;
  for (int64_t k = 0; k < a.clusters; ++k) {
    const float moved = place_centroid<T>(a, b, k, sums + k * a.width);
    if (!(moved <= shift)) shift = std::isnan(shift) ? shift : moved;
  }
  a.shift[b] = shift;
}

}  // namespace

void update(const UpdateArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) TK_FLOAT_SWITCH(a.dtype, T, update_sample<T>(a, b))
}

}  // namespace tk::cluster::ref
