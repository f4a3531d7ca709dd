// SPDX-License-Identifier: Apache-2.0
#include "quantize/ema_update.h"

#include <algorithm>
#include <vector>

namespace tk::quantize::ref {
namespace {

template <class T>
void sum_book(const EmaUpdateArgs& a, int64_t q) {
  std::vector<double> sums(static_cast<size_t>(a.codes * a.width));
  int64_t* counts = a.counts + q * a.codes;
  std::fill_n(counts, a.codes, 0);
  for (int64_t n = 0; n < a.rows; ++n) {
    const int64_t k = a.index[q * a.rows + n];
    if (k < 0) continue;
    ++counts[k];
    const T* x = static_cast<const T*>(a.x) + q * a.x_book_stride + n * a.x_row_stride;
    for (int64_t d = 0; d < a.width; ++d) sums[k * a.width + d] += to_float(x[d]);
  }
  std::copy(sums.begin(), sums.end(), a.sums + q * a.codes * a.width);
}

}  // namespace

void ema_update(const EmaUpdateArgs& a) {
  for (int64_t q = 0; q < a.books; ++q) TK_FLOAT_SWITCH(a.dtype, T, sum_book<T>(a, q))
}

}  // namespace tk::quantize::ref
