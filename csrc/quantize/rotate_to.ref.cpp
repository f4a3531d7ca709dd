// SPDX-License-Identifier: Apache-2.0
#include "quantize/rotate_to.h"

#include <cmath>
#include <vector>

namespace tk::quantize::ref {
namespace {

using Row = std::vector<double>;

double dot(const Row& x, const Row& y) {
  double sum = 0;
  for (size_t d = 0; d < x.size(); ++d) sum += x[d] * y[d];
  return sum;
}

// v / max(|v|, eps)
Row direction(const Row& v, double eps) {
  Row out(v);
  const double norm = std::sqrt(dot(v, v));
  for (double& value : out) value /= norm < eps ? eps : norm;
  return out;
}

template <class T>
Row read(const void* from, int64_t row, int64_t width) {
  const T* values = static_cast<const T*>(from) + row * width;
  Row out(static_cast<size_t>(width));
  for (int64_t d = 0; d < width; ++d) out[d] = to_float(values[d]);
  return out;
}

// scale * (given - 2 (given.w) w + 2 (given.from) to)
template <class T>
void reflect(const Row& given, const Row& u, const Row& v, bool forward, double scale, double eps, T* out) {
  Row w(u);
  for (size_t d = 0; d < u.size(); ++d) w[d] += v[d];
  w = direction(w, eps);
  const Row& from = forward ? u : v;
  const Row& to = forward ? v : u;
  const double along_w = dot(given, w);
  const double along = dot(given, from);
  for (size_t d = 0; d < u.size(); ++d) {
    out[d] = from_float<T>(static_cast<float>(scale * (given[d] - 2 * along_w * w[d] + 2 * along * to[d])));
  }
}

template <class T>
void rotate_row(const void* given, const void* x_, const void* q_, void* out, int64_t n, int64_t width, double eps) {
  const Row x = read<T>(x_, n, width);
  const Row q = read<T>(q_, n, width);
  const double norm = std::sqrt(dot(x, x));
  const double scale = std::sqrt(dot(q, q)) / (norm < eps ? eps : norm);
  reflect(given ? read<T>(given, n, width) : x, direction(x, eps), direction(q, eps), given == nullptr, scale, eps,
          static_cast<T*>(out) + n * width);
}

}  // namespace

void rotate_to(const RotateToArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) {
    TK_FLOAT_SWITCH(a.dtype, T, rotate_row<T>(nullptr, a.x, a.q, a.out, n, a.width, a.eps))
  }
}

void rotate_to_backward(const RotateToBackwardArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) {
    TK_FLOAT_SWITCH(a.dtype, T, rotate_row<T>(a.grad, a.x, a.q, a.grad_x, n, a.width, a.eps))
  }
}

}  // namespace tk::quantize::ref
