// SPDX-License-Identifier: Apache-2.0
#include "attention/rope_scatter.h"

#include <vector>

#include "attention/scalar.ref.h"

namespace tk::attention::ref {
namespace {

template <class T>
void add_turned(const RopeScatterArgs& a, int64_t b, int64_t n, const T* x, double* sum) {
  const int64_t half = a.width / 2;
  if (!a.table.cos) {
    for (int64_t d = 0; d < a.width; ++d) sum[d] += to_double(x[d]);
    return;
  }
  const float* cos = a.table.cos + b * a.table.cos_batch_stride + n * a.table.cos_row_stride;
  const float* sin = a.table.sin + b * a.table.sin_batch_stride + n * a.table.sin_row_stride;
  for (int64_t d = 0; d < half; ++d) {
    const double low = to_double(x[d]);
    const double high = to_double(x[d + half]);
    sum[d] += low * cos[d] + high * sin[d + half];
    sum[d + half] += high * cos[d + half] - low * sin[d];
  }
}

template <class T>
void scatter(const RopeScatterArgs& a) {
  for (int64_t i = 0; i < a.batch * a.heads * a.rows; ++i) {
    const int64_t u = i % a.rows;
    const int64_t h = i / a.rows % a.heads;
    const int64_t b = i / a.rows / a.heads;
    std::vector<double> sum(a.width, 0.0);
    int64_t count = 0;
    for (int64_t n = 0; n < a.picks; ++n) {
      if (a.index.data[b * a.index.batch_stride + n] != u) continue;
      add_turned(a, b, n, head_row<T>(a.x, b, h, n), sum.data());
      ++count;
    }
    const double divisor = a.mean && count > 0 ? static_cast<double>(count) : 1.0;
    for (int64_t d = 0; d < a.width; ++d) assign(static_cast<T*>(a.out) + i * a.width + d, sum[d] / divisor);
  }
}

}  // namespace

void rope_scatter(const RopeScatterArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, scatter<T>(a)) }

}  // namespace tk::attention::ref
