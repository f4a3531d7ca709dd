// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_entropy_backward.h"

#include "quantize/soft_codes.ref.h"

namespace tk::quantize::ref {
namespace {

using Args = CodebookEntropyBackwardArgs;

// The gradient of every logit of row n; the softmax is made from the logits themselves, not from lse.
template <class T>
Numbers logit_gradients(const Args& a, int64_t q, int64_t n) {
  Numbers log_p = scores<T>(a, q, n);
  log_softmax(a.inv_temperature, &log_p);
  const double share = share_of(a, q, n);
  const double g_entropy = a.grad_entropy ? a.grad_entropy[q * a.rows + n] : 0;
  const double g_lse = a.grad_lse ? a.grad_lse[q * a.rows + n] : 0;
  Numbers p(a.codes_count), w(a.codes_count);
  for (int64_t k = 0; k < a.codes_count; ++k) {
    p[k] = std::exp(log_p[k]);
    const double u = std::max(p[k], static_cast<double>(a.log_floor)) + static_cast<double>(a.log_add);
    const double follows = p[k] < a.log_floor || p[k] == 0 ? 0 : p[k] / u;
    const double log_u = p[k] == 0 ? 0 : guarded_log(a, log_p[k]);
    w[k] = -g_entropy * (log_u + follows);
    if (a.grad_mean && share != 0) w[k] += a.grad_mean[q * a.codes_count + k] * share;
  }
  const double centre = dot(p, w);
  for (int64_t k = 0; k < a.codes_count; ++k) p[k] *= w[k] - centre + g_lse;
  return p;
}

template <class T>
void write(void* to, int64_t row, const Numbers& v) {
  T* out = static_cast<T*>(to) + row * static_cast<int64_t>(v.size());
  for (size_t d = 0; d < v.size(); ++d) out[d] = from_float<T>(static_cast<float>(v[d]));
}

template <class T>
void book_gradients(const Args& a, int64_t q) {
  std::vector<Numbers> codes(a.codes_count), grad_codes(a.codes_count, Numbers(a.width));
  for (int64_t k = 0; k < a.codes_count; ++k) {
    codes[k] = numbers<T>(a.codes, q * a.c_book_stride + k * a.c_row_stride, a.width);
  }
  for (int64_t n = 0; n < a.rows; ++n) {
    const Numbers x = numbers<T>(a.x, q * a.x_book_stride + n * a.x_row_stride, a.width);
    const Numbers g = logit_gradients<T>(a, q, n);
    Numbers grad_x(a.width);
    for (int64_t k = 0; k < a.codes_count; ++k) {
      add_gradient(a.metric, g[k] * a.inv_temperature, x, codes[k], &grad_x);
      add_gradient(a.metric, g[k] * a.inv_temperature, codes[k], x, &grad_codes[k]);
    }
    if (a.grad_x) write<T>(a.grad_x, q * a.rows + n, grad_x);
  }
  for (int64_t k = 0; k < a.codes_count && a.grad_codes; ++k) {
    write<T>(a.grad_codes, q * a.codes_count + k, grad_codes[k]);
  }
}

}  // namespace

void codebook_entropy_backward(const Args& a) {
  for (int64_t q = 0; q < a.books; ++q) {
    TK_FLOAT_SWITCH(a.dtype, T, book_gradients<T>(a, q))
  }
}

}  // namespace tk::quantize::ref
