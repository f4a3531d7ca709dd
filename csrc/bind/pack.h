// SPDX-License-Identifier: Apache-2.0
// What the kernels may rely on about strides, and the copies that make it true.
#pragma once
#include <cstdint>

#include "core/view.h"

namespace tk::bind {

// Usable as it is: aligned, no negative stride, innermost extent contiguous (`dense`: all of them).
bool expressible(const View& view, bool dense);

// No two elements share memory, and no stride is negative. Cautious: some interleaved arrays fail.
bool has_own_elements(const View& view);

// Extents of one may come with any stride; kernels see the stride a dense array would have there.
void regularise_strides(View& view);
void set_dense_strides(View& view);

// The elements in row-major order. `out` holds as many; a misaligned source is fine.
void pack_elements(const View& view, void* out);
void widen_elements(const View& view, int64_t* out);  // from int32

// The first and one past the last byte the array touches, as offsets from its data.
struct Extent {
  int64_t low = 0;
  int64_t high = 0;
};
// False when they do not fit, even for the widest dtype, or an extent is negative.
bool find_extent(const View& view, Extent* extent);

}  // namespace tk::bind
