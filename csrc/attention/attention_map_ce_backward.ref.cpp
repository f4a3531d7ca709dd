// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_map_ce_backward.h"

#include "attention/map_side.ref.h"

namespace tk::attention::ref {
namespace {

template <class T>
void head_backward(const AttentionMapCeBackwardArgs& a, int64_t b, int64_t h) {
  const int64_t head = b * a.heads + h;
  const int64_t width = a.student.width;
  std::vector<double> grad_k(a.keys * width, 0.0);
  for (int64_t i = 0; i < a.queries; ++i) {
    const int64_t row = head * a.queries + i;
    const std::vector<double> student = map_scores<T>(a.student, b, h, i, a.keys);
    const std::vector<double> teacher = map_scores<T>(a.teacher, b, h, i, a.keys);
    const T* q = head_row<T>(a.student.rows, b, h, i);
    std::vector<double> grad_q(width, 0.0);
    for (int64_t j = 0; j < a.keys; ++j) {
      const double p = std::exp(student[j] - a.lse_student[row]) - std::exp(teacher[j] - a.lse_teacher[row]);
      const double ds = a.student.scale * a.grad[row] * p;
      const T* k = head_row<T>(a.student.columns, b, h, j);
      for (int64_t d = 0; d < width; ++d) {
        grad_q[d] += ds * to_double(k[d]);
        grad_k[j * width + d] += ds * to_double(q[d]);
      }
    }
    for (int64_t d = 0; d < width; ++d) assign(static_cast<T*>(a.grad_q) + row * width + d, grad_q[d]);
  }
  T* out = static_cast<T*>(a.grad_k) + head * a.keys * width;
  for (int64_t e = 0; e < a.keys * width; ++e) assign(out + e, grad_k[e]);
}

}  // namespace

void attention_map_ce_backward(const AttentionMapCeBackwardArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      TK_FLOAT_SWITCH(a.dtype, T, head_backward<T>(a, b, h))
    }
  }
}

}  // namespace tk::attention::ref
