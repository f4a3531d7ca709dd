// SPDX-License-Identifier: Apache-2.0
#include "merge/scatter_rows.h"

#include <cstring>

namespace tk::merge::ref {

void scatter_rows(const ScatterRowsArgs& a) {
  const size_t item = item_size(a.dtype);
  const size_t row_bytes = a.width * item;
  auto* out = static_cast<unsigned char*>(a.out);
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t n = 0; n < a.rows; ++n) {
      unsigned char* to = out + (b * a.rows + n) * row_bytes;
      std::memset(to, 0, row_bytes);
      if (!a.base) continue;
      const auto* base = static_cast<const unsigned char*>(a.base);
      std::memcpy(to, base + (b * a.base_batch_stride + n * a.base_row_stride) * item, row_bytes);
    }
    for (int64_t m = a.picks - 1; m >= 0; --m) {  // the lowest m is written last
      const auto* y = static_cast<const unsigned char*>(a.y);
      const int64_t row = b * a.rows + a.index[b * a.picks + m];
      std::memcpy(out + row * row_bytes, y + (b * a.y_batch_stride + m * a.y_row_stride) * item, row_bytes);
    }
  }
}

void scatter_rows_backward(const ScatterRowsBackwardArgs& a) {
  const size_t item = item_size(a.dtype);
  const size_t row_bytes = a.width * item;
  const auto* grad = static_cast<const unsigned char*>(a.grad);
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t* index = a.index + b * a.picks;
    for (int64_t m = 0; m < a.picks; ++m) {
      bool won = true;
      for (int64_t earlier = 0; earlier < m; ++earlier) won &= index[earlier] != index[m];
      unsigned char* to = static_cast<unsigned char*>(a.out) + (b * a.picks + m) * row_bytes;
      std::memset(to, 0, row_bytes);
      if (won) std::memcpy(to, grad + (b * a.grad_batch_stride + index[m] * a.grad_row_stride) * item, row_bytes);
    }
  }
}

}  // namespace tk::merge::ref
