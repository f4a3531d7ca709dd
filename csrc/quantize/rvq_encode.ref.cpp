// SPDX-License-Identifier: Apache-2.0
#include "quantize/rvq_encode.h"

#include <cmath>
#include <limits>
#include <vector>

namespace tk::quantize::ref {
namespace {

constexpr double kMost = std::numeric_limits<float>::max();

template <class T>
double dot(const float* x, const T* y, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(x[d]) * to_float(y[d]);
  return sum;
}

template <class T>
double squares(const T* x, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(to_float(x[d])) * to_float(x[d]);
  return sum;
}

// The larger, the nearer; NaN where a vector is not finite.
template <class T>
double nearness(const float* x, const T* code, int64_t width, Metric metric) {
  const double product = dot(x, code, width);
  if (!(squares(x, width) <= kMost && squares(code, width) <= kMost)) return std::nan("");
  if (metric == Metric::cosine) {
    const double norms = std::sqrt(squares(x, width)) * std::sqrt(squares(code, width));
    return norms == 0 ? 0 : product / norms;
  }
  double distance = 0;
  for (int64_t d = 0; d < width; ++d) {
    const double difference = static_cast<double>(x[d]) - to_float(code[d]);
    distance += difference * difference;
  }
  return -distance;
}

template <class T>
void encode_row(const RvqEncodeArgs& a, int64_t g, int64_t n) {
  const T* x = static_cast<const T*>(a.x) + g * a.x_group_stride + n * a.x_row_stride;
  const int64_t row = g * a.rows + n;
  const int64_t count = a.n_q ? a.n_q[g * a.n_q_group_stride + n] : a.layers;
  float* quantized = a.quantized + row * a.width;
  std::vector<float> r(static_cast<size_t>(a.width));
  for (int64_t d = 0; d < a.width; ++d) r[d] = to_float(x[d]);
  for (int64_t d = 0; d < a.width; ++d) quantized[d] = 0;
  for (int64_t q = 0; q < a.books; ++q) {
    int64_t& index = a.index[row * a.books + q] = -1;
    float& error = a.error[row * a.books + q] = 0;
    if (q >= count) continue;
    const T* book = static_cast<const T*>(a.codes) + g * a.c_group_stride + q * a.c_book_stride;
    double best = std::nan("");
    index = 0;
    for (int64_t k = 0; k < a.codes_count; ++k) {
      const double near = nearness(r.data(), book + k * a.c_row_stride, a.width, a.metric);
      if (!(near > best || (std::isnan(best) && !std::isnan(near)))) continue;
      best = near;
      index = k;
    }
    for (int64_t d = 0; d < a.width; ++d) {
      const float code = to_float(book[index * a.c_row_stride + d]);
      quantized[d] = q == 0 ? code : quantized[d] + code;
      r[d] -= code;
    }
    const double left = squares(r.data(), a.width);
    error = left <= kMost ? static_cast<float>(left) : std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace

void rvq_encode(const RvqEncodeArgs& a) {
  for (int64_t g = 0; g < a.groups; ++g) {
    for (int64_t n = 0; n < a.rows; ++n) TK_FLOAT_SWITCH(a.dtype, T, encode_row<T>(a, g, n))
  }
}

}  // namespace tk::quantize::ref
