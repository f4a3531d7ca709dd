// SPDX-License-Identifier: Apache-2.0
// Where a row of one sample and head lies; the head itself without `i`.
#pragma once
#include "attention/attention.h"

namespace tk::attention {

template <class T>
TK_INLINE const T* head_row(const HeadRows& x, int64_t b, int64_t h, int64_t i = 0) {
  return static_cast<const T*>(x.data) + b * x.batch_stride + h * x.head_stride + i * x.row_stride;
}

}  // namespace tk::attention
