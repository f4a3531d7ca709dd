// SPDX-License-Identifier: Apache-2.0
#include "cluster/centroid_topp_map.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace tk::cluster::ref {
namespace {

void keep_smallest_prefix(const std::vector<float>& prob, int64_t limit, int64_t forced, uint8_t* map) {
  std::vector<size_t> order(prob.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return prob[i] > prob[j]; });
  int64_t mass = 0;
  for (size_t position = 0; position < order.size(); ++position) {
    map[order[position]] = static_cast<int64_t>(position) < forced || mass <= limit;
    mass += mass_units(prob[order[position]]);
  }
}

template <class T>
void map_rows(const CentroidToppMapArgs& a) {
  std::vector<float> prob(static_cast<size_t>(a.keys));
  for (int64_t row = 0; row < a.batch * a.heads * a.queries; ++row) {
    const int64_t group = row / a.queries;
    const int64_t b = group / a.heads;
    const int64_t h = group % a.heads;
    const T* q =
        static_cast<const T*>(a.qc) + b * a.q_batch_stride + h * a.q_head_stride + row % a.queries * a.q_row_stride;
    const T* k = static_cast<const T*>(a.kc) + b * a.k_batch_stride + h * a.k_head_stride;
    float highest = -INFINITY;
    for (size_t j = 0; j < prob.size(); ++j, k += a.k_row_stride) {
      float dot = 0;
      for (int64_t d = 0; d < a.width; ++d) dot += to_float(q[d]) * to_float(k[d]);
      prob[j] = dot * a.scale;
      highest = std::max(highest, prob[j]);
    }
    float sum = 0;
    for (size_t j = 0; j < prob.size(); ++j) {
      prob[j] = static_cast<float>(a.size_k[group * a.keys + static_cast<int64_t>(j)]) * std::exp(prob[j] - highest);
      sum += prob[j];
    }
    for (float& p : prob) p = std::isnan(sum) ? NAN : p / std::max(sum, kLeastMass);
    if (a.prob) std::copy(prob.begin(), prob.end(), a.prob + row * a.keys);
    if (std::isnan(sum)) {
      std::fill_n(a.map + row * a.keys, a.keys, uint8_t{1});
    } else {
      keep_smallest_prefix(prob, a.limit, a.forced, a.map + row * a.keys);
    }
  }
}

}  // namespace

void centroid_topp_map(const CentroidToppMapArgs& a) {
  if (a.dtype == DType::f32) return map_rows<float>(a);
  if (a.dtype == DType::f16) return map_rows<f16_t>(a);
  map_rows<bf16_t>(a);
}

}  // namespace tk::cluster::ref
