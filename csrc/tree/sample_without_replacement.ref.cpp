// SPDX-License-Identifier: Apache-2.0
#include "tree/sample_without_replacement.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace tk::tree::ref {
namespace {

template <class T>
void draw_row(const SampleWithoutReplacementArgs& a, int64_t row) {
  const T* q = mass_row<T>(a, row);
  const float* u = a.u + row * a.u_stride;
  std::vector<uint32_t> key(static_cast<size_t>(a.width));
  std::vector<int64_t> order;
  for (int64_t v = 0; v < a.width; ++v) {
    key[static_cast<size_t>(v)] = race_key<int32_t, uint32_t>(to_float(q[v]), u[v]);
    if (key[static_cast<size_t>(v)] > 0) order.push_back(v);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t v, int64_t w) { return key[static_cast<size_t>(v)] > key[static_cast<size_t>(w)]; });
  double left = 0;
  for (auto i = static_cast<int64_t>(order.size()) - 1; i >= 0; --i) {
    const double mass = to_float(q[order[static_cast<size_t>(i)]]);
    left += mass;
    if (i >= a.k) continue;
    a.index[row * a.k + i] = order[static_cast<size_t>(i)];
    a.prob[row * a.k + i] = draw_share(mass, left);
  }
  for (auto i = static_cast<int64_t>(order.size()); i < a.k; ++i) {
    a.index[row * a.k + i] = -1;
    a.prob[row * a.k + i] = 0;
  }
}

}  // namespace

void sample_without_replacement(const SampleWithoutReplacementArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    TK_FLOAT_SWITCH(a.dtype, T, draw_row<T>(a, row))
  }
}

}  // namespace tk::tree::ref
