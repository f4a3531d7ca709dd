// SPDX-License-Identifier: Apache-2.0
// Arrays (B, H, N, D), and where a row of one sample and head lies; the head itself without `i`.
#pragma once
#include "core/dtype.h"

namespace tk {

// Rows are contiguous; strides in elements.
struct HeadRows {
  const void* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
};

template <class T>
TK_INLINE const T* head_row(const HeadRows& x, int64_t b, int64_t h, int64_t i = 0) {
  return static_cast<const T*>(x.data) + b * x.batch_stride + h * x.head_stride + i * x.row_stride;
}

}  // namespace tk
