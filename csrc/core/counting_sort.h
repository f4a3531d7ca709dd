// SPDX-License-Identifier: Apache-2.0
// A stable counting sort, for kernels of every family: local to each translation unit, no STL.
#pragma once
#include <cstdint>

namespace tk {
namespace {

// offsets (classes + 1) and the items with a class, in ascending order within each; a negative id belongs to none.
inline void counting_sort(const int64_t* ids, int64_t items, int64_t classes, int64_t* offsets, int64_t* order) {
  for (int64_t c = 0; c <= classes; ++c) offsets[c] = 0;
  for (int64_t i = 0; i < items; ++i) {
    if (ids[i] >= 0) ++offsets[ids[i] + 1];
  }
  for (int64_t c = 0; c < classes; ++c) offsets[c + 1] += offsets[c];
  for (int64_t i = 0; i < items; ++i) {
    if (ids[i] >= 0) order[offsets[ids[i]]++] = i;
  }
  // Placing moved every start to the start of the next class.
  for (int64_t c = classes; c > 0; --c) offsets[c] = offsets[c - 1];
  offsets[0] = 0;
}

}  // namespace
}  // namespace tk
