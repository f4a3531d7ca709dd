// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_backward.h"

#include <cmath>
#include <vector>

#include "attention/scalar.ref.h"

namespace tk::attention::ref {
namespace {

double number_at(const void* x, DType dtype, int64_t i) {
  return dtype == DType::f64 ? static_cast<const double*>(x)[i] : static_cast<const float*>(x)[i];
}

template <class T>
void add_row(double weight, const T* from, int64_t width, double* to) {
  for (int64_t d = 0; d < width; ++d) to[d] += weight * to_double(from[d]);
}

template <class T>
void write_rows(const std::vector<double>& rows, double scale, void* to) {
  for (size_t i = 0; i < rows.size(); ++i) assign(static_cast<T*>(to) + i, scale * rows[i]);
}

// Sums of the whole call, in the layout of the answers.
struct Sums {
  std::vector<double> q, k, v, bias;
};

template <class T, class P>
void one_head(const AttentionBackwardArgs& a, int64_t b, int64_t h, Sums* sums) {
  const auto& [queries, keys] = a.shape.extents;
  const int64_t width = a.shape.width;
  const int64_t g = h / (a.shape.heads / a.shape.groups);
  const P policy(a.policy, a.shape.extents, b, h);
  const int64_t bias_row = b % a.bias_batch * a.bias_heads + h % a.bias_heads;
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t row = (b * a.shape.heads + h) * queries + i;
    const double lse = number_at(a.lse, a.dtype, row);
    if (lse == kMinusInfinity) continue;
    const T* q = head_row<T>(a.q, b, h, i);
    const T* grad = head_row<T>(a.grad, b, h, i);
    const double grad_lse = a.grad_lse ? number_at(a.grad_lse, a.dtype, row) : 0.0;
    const double centre = dot(grad, head_row<T>(a.out, b, h, i), width) - grad_lse;
    for (int64_t j = 0; j < keys; ++j) {
      if (!policy.allowed(i, j) || bias_of(a.key_bias, b, h, j) == kMinusInfinity) continue;
      const T* k = head_row<T>(a.k, b, g, j);
      const T* v = head_row<T>(a.v, b, g, j);
      const double score = a.scale * dot(q, k, width) + bias_of(a.key_bias, b, h, j);
      if (score == kMinusInfinity) continue;
      const double p = std::exp(score - lse);
      const double ds = p * (dot(grad, v, width) - centre);
      const int64_t key = (b * a.shape.groups + g) * keys + j;
      add_row(ds, k, width, &sums->q[row * width]);
      add_row(ds, q, width, &sums->k[key * width]);
      add_row(p, grad, width, &sums->v[key * width]);
      if (a.grad_key_bias) sums->bias[bias_row * keys + j] += ds;
    }
  }
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& a) {
  const auto& [queries, keys] = a.shape.extents;
  const size_t key_items = a.shape.batch * a.shape.groups * keys * a.shape.width;
  Sums sums{std::vector<double>(a.shape.batch * a.shape.heads * queries * a.shape.width),
            std::vector<double>(key_items), std::vector<double>(key_items),
            std::vector<double>(a.grad_key_bias ? a.bias_batch * a.bias_heads * keys : 0)};
  for (int64_t b = 0; b < a.shape.batch; ++b) {
    for (int64_t h = 0; h < a.shape.heads; ++h) {
      TK_SCALAR_SWITCH(a.dtype, T, {TK_POLICY_SWITCH(a.policy.kind, P, one_head<T, P>(a, b, h, &sums))})
    }
  }
  TK_SCALAR_SWITCH(a.dtype, T, {
    write_rows<T>(sums.q, a.scale, a.grad_q);
    write_rows<T>(sums.k, a.scale, a.grad_k);
    write_rows<T>(sums.v, 1.0, a.grad_v);
  })
  write_rows<float>(sums.bias, 1.0, a.grad_key_bias);
}

}  // namespace tk::attention::ref
