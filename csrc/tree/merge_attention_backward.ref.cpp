// SPDX-License-Identifier: Apache-2.0
#include "tree/merge_attention_backward.h"

#include <cmath>
#include <vector>

namespace tk::tree::ref {
namespace {

template <class T>
void row_gradient(const MergeAttentionBackwardArgs& a, int64_t b, int64_t h, int64_t n) {
  const PartShape& s = a.shape;
  const int64_t row = (b * s.heads + h) * s.rows + n;
  const int64_t rows = s.batch * s.heads * s.rows;
  const T* grad = head_row<T>(a.grad, b, h, n);
  double most = -INFINITY;
  for (int64_t k = 0; k < s.parts; ++k) most = std::fmax(most, double{*part_lse(a.lses, k, b, h, n)});
  std::vector<double> weight(s.parts), dot(s.parts);
  double sum = 0;
  for (int64_t k = 0; k < s.parts; ++k) {
    const double lse = *part_lse(a.lses, k, b, h, n);
    if (lse == -INFINITY) continue;
    weight[k] = std::exp(lse - most);
    sum += weight[k];
    const T* out = part_row<T>(a.outs, a.part_stride, k, b, h, n);
    for (int64_t d = 0; d < s.width; ++d) dot[k] += double{to_float(grad[d])} * to_float(out[d]);
  }
  double mean = 0;
  for (int64_t k = 0; k < s.parts; ++k) {
    if (weight[k] != 0) mean += (weight[k] /= sum) * dot[k];
  }
  for (int64_t k = 0; k < s.parts; ++k) {
    const bool seen = *part_lse(a.lses, k, b, h, n) != -INFINITY;
    const double change = dot[k] - mean + (a.grad_lse ? a.grad_lse[row] : 0.0f);
    a.grad_lses[k * rows + row] = seen ? static_cast<float>(weight[k] * change) : 0.0f;
    T* to = static_cast<T*>(a.grad_outs) + (k * rows + row) * s.width;
    for (int64_t d = 0; d < s.width; ++d) {
      to[d] = from_float<T>(seen ? static_cast<float>(weight[k] * to_float(grad[d])) : 0.0f);
    }
  }
}

}  // namespace

void merge_attention_backward(const MergeAttentionBackwardArgs& a) {
  const PartShape& s = a.shape;
  for (int64_t i = 0; i < s.batch * s.heads * s.rows; ++i) {
    TK_FLOAT_SWITCH(a.dtype, T, row_gradient<T>(a, i / s.rows / s.heads, i / s.rows % s.heads, i % s.rows))
  }
}

}  // namespace tk::tree::ref
