// SPDX-License-Identifier: Apache-2.0
// Whether a kernel that copies rows may move 16 bytes at a time. For launchers.
#pragma once
#include <initializer_list>

#include "core/dtype.h"

namespace tk::merge::gpu {

struct alignas(16) Word16 {
  uint32_t part[4];
};

// Every address, and every extent or stride (in elements of `dtype`), is a whole number of such words.
inline bool fits_words(std::initializer_list<const void*> addresses, std::initializer_list<int64_t> extents,
                       DType dtype) {
  uintptr_t bits = 0;
  for (const void* p : addresses) bits |= reinterpret_cast<uintptr_t>(p);
  for (const int64_t n : extents) bits |= static_cast<uintptr_t>(n) * item_size(dtype);
  return bits % sizeof(Word16) == 0;
}

}  // namespace tk::merge::gpu
