// SPDX-License-Identifier: Apache-2.0
#include "merge/cosine_match.h"

#include <cmath>
#include <limits>

namespace tk::merge::ref {
namespace {

template <class T>
double dot(const T* x, const T* y, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(to_float(x[d])) * to_float(y[d]);
  return sum;
}

template <class T>
double norm(const T* x, int64_t width) {
  const double n = std::sqrt(dot(x, x, width));
  return n < std::numeric_limits<float>::min() ? 0 : n;
}

template <class T>
double cosine(const T* x, const T* y, int64_t width) {
  const double norms = norm(x, width) * norm(y, width);
  return norms == 0 ? 0 : dot(x, y, width) / norms;
}

template <class T>
void match_row(const CosineMatchArgs& a, int64_t b, int64_t row) {
  const T* x = static_cast<const T*>(a.a) + b * a.a_batch_stride + row * a.a_row_stride;
  const bool searches = !a.mask_a || a.mask_a[b * a.rows + row];
  double best = -std::numeric_limits<double>::infinity();
  int64_t index = -1;
  for (int64_t j = 0; j < a.columns; ++j) {
    if (a.mask_b && !a.mask_b[b * a.columns + j]) continue;
    if (index < 0) index = j;
    if (!searches) break;
    const double s = cosine(x, static_cast<const T*>(a.b) + b * a.b_batch_stride + j * a.b_row_stride, a.width);
    if (s > best) {
      best = s;
      index = j;
    }
  }
  a.score[b * a.rows + row] = static_cast<float>(best);
  a.index[b * a.rows + row] = index < 0 ? 0 : index;
}

}  // namespace

void cosine_match(const CosineMatchArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t row = 0; row < a.rows; ++row) TK_FLOAT_SWITCH(a.dtype, T, match_row<T>(a, b, row))
  }
}

}  // namespace tk::merge::ref
