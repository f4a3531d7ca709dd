// SPDX-License-Identifier: Apache-2.0
// Whether a launcher's kernels may move rows 16 bytes at a time.
#pragma once
#include <initializer_list>

#include "attention/attention.h"

namespace tk::attention::gpu {

// Rows of every array are whole, aligned chunks of 16 bytes. Answers lie without gaps.
inline bool are_wide(std::initializer_list<const HeadRows*> inputs, std::initializer_list<const void*> answers,
                     int64_t width, DType dtype) {
  const auto item = static_cast<uintptr_t>(item_size(dtype));
  uintptr_t bits = static_cast<uintptr_t>(width) * item;
  for (const void* x : answers) bits |= reinterpret_cast<uintptr_t>(x);
  for (const HeadRows* x : inputs) {
    const int64_t strides = x->batch_stride | x->head_stride | x->row_stride;
    bits |= reinterpret_cast<uintptr_t>(x->data) | static_cast<uintptr_t>(strides) * item;
  }
  return bits % 16 == 0;
}

}  // namespace tk::attention::gpu
