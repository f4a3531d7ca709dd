// SPDX-License-Identifier: Apache-2.0
#include "core/nearest_column.h"
#include "quantize/nearest.h"

namespace tk::quantize::gpu {
namespace {

::tk::gpu::NearestColumn search_of(const NearestArgs& a) {
  const CodeSearch& s = a.search;
  return {s.x,           s.codes, s.dtype,         s.metric,       s.books,         s.rows,
          s.codes_count, s.width, s.x_book_stride, s.x_row_stride, s.c_book_stride, s.c_row_stride,
          a.index,       a.best,  a.second,        a.second_best};
}

}  // namespace

size_t nearest_workspace(const NearestArgs& a) { return ::tk::gpu::nearest_column_workspace(search_of(a)); }

void nearest(const NearestArgs& a, const GpuContext& context) { ::tk::gpu::nearest_column(search_of(a), context); }

}  // namespace tk::quantize::gpu
