// SPDX-License-Identifier: Apache-2.0
#include "quantize/lookup.h"

#include <cstring>
#include <vector>

namespace tk::quantize::ref {
namespace {

template <class T>
void add_up(const LookupBackwardArgs& a, int64_t g, int64_t q) {
  std::vector<double> sums(static_cast<size_t>(a.codes_count * a.width));
  for (int64_t n = 0; n < a.rows && q < a.layers; ++n) {
    const T* grad = static_cast<const T*>(a.grad) + g * a.grad_group_stride + n * a.grad_row_stride;
    const int64_t k = a.index[(g * a.rows + n) * a.books + q];
    for (int64_t d = 0; d < a.width && k >= 0; ++d) sums[k * a.width + d] += to_float(grad[d]);
  }
  T* out = static_cast<T*>(a.out) + (g * a.books + q) * a.codes_count * a.width;
  for (size_t i = 0; i < sums.size(); ++i) out[i] = from_float<T>(static_cast<float>(sums[i]));
}

}  // namespace

void lookup(const LookupArgs& a) {
  const size_t item = item_size(a.dtype);
  const size_t bytes = a.width * item;
  for (int64_t i = 0; i < a.books * a.rows; ++i) {
    const int64_t code = i / a.rows * a.book_stride + a.index[i] * a.code_stride;
    if (bytes == 0) continue;
    if (a.index[i] < 0) {
      std::memset(static_cast<char*>(a.out) + i * bytes, 0, bytes);
    } else {
      std::memcpy(static_cast<char*>(a.out) + i * bytes, static_cast<const char*>(a.codes) + code * item, bytes);
    }
  }
}

void lookup_backward(const LookupBackwardArgs& a) {
  for (int64_t g = 0; g < a.groups; ++g) {
    for (int64_t q = 0; q < a.books; ++q) TK_FLOAT_SWITCH(a.dtype, T, add_up<T>(a, g, q))
  }
}

}  // namespace tk::quantize::ref
