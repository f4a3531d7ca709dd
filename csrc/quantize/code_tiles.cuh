// SPDX-License-Identifier: Apache-2.0
// What the device's searches for several codes of a row share: the tiles of nearest, row and code norms, ranges of
// codes. Up to 16 wide, all dtypes are multiplied as float32, so that scores have the bits of nearest's.
#pragma once
#include <type_traits>

#include "core/nearest_column.cuh"
#include "quantize/code_search.h"

namespace tk::quantize::gpu {

using ::tk::gpu::kNarrowWidth;
using ::tk::gpu::nearest_norms_kernel;
using ::tk::gpu::NearnessScore;

inline DeviceSearch device_search(const CodeSearch& s) {
  return {s.x,
          s.codes,
          s.books,
          s.rows,
          s.codes_count,
          s.width,
          s.x_book_stride,
          s.x_row_stride,
          s.c_book_stride,
          s.c_row_stride,
          column_splits(s.books, s.rows, s.codes_count)};
}

inline dim3 search_grid(const DeviceSearch& s) {
  return dim3(static_cast<unsigned>(search_blocks(s.batch, s.rows) * s.splits));
}

inline dim3 warp_grid(int64_t warps) {
  return dim3(static_cast<unsigned>((warps + kNormThreads / 32 - 1) / (kNormThreads / 32)));
}

template <class T>
void launch_norms(const DeviceSearch& s, Metric metric, float* row, float* column, void* stream) {
  launch(nearest_norms_kernel<T>, warp_grid(s.batch * (s.rows + s.columns)), dim3(kNormThreads), 0, stream, s, metric,
         row, column);
}

// Calls use(tile, aligned) with how the vectors of a search are multiplied, and whether they move 16 bytes at a time.
template <class T, class Use>
void with_tile(const DeviceSearch& s, DType dtype, const Use& use) {
  const bool aligned = search_is_aligned(s, dtype);
  if constexpr (sizeof(T) < sizeof(float)) {
    if (s.width > kNarrowWidth) {
      return aligned ? use(MmaTile<T>{}, std::true_type{}) : use(MmaTile<T>{}, std::false_type{});
    }
  }
  return aligned ? use(FmaTile{}, std::true_type{}) : use(FmaTile{}, std::false_type{});
}

}  // namespace tk::quantize::gpu
