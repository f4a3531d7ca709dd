// SPDX-License-Identifier: Apache-2.0
#include "quantize/rvq_encode.cuh"

namespace tk::quantize::gpu {
namespace {

int64_t splits_of(const RvqEncodeArgs& a) { return column_splits(a.groups, a.rows, a.codes_count); }

bool is_resident(const RvqEncodeArgs& a) { return a.width <= kResidentWidth && splits_of(a) == 1; }

int64_t column_count(const RvqEncodeArgs& a) { return a.groups * a.books * a.codes_count; }

// The residuals come first: 16 bytes of a row move at a time.
RvqScratch scratch_in(const RvqEncodeArgs& a, void* workspace) {
  RvqScratch s{};
  s.column = static_cast<float*>(workspace);
  if (is_resident(a)) return s;
  const int64_t rows = a.groups * a.rows;
  s.residual = static_cast<float*>(workspace);
  s.squares = s.residual + rows * a.width;
  s.column = s.squares + rows;
  s.parts = reinterpret_cast<BestColumn*>(s.column + column_count(a));
  return s;
}

// The search of one layer.
DeviceSearch search_of(const RvqEncodeArgs& a, const RvqScratch& s, int64_t layer) {
  const auto item = static_cast<int64_t>(item_size(a.dtype));
  return {s.residual,       static_cast<const char*>(a.codes) + layer * a.c_book_stride * item,
          a.groups,         a.rows,
          a.codes_count,    a.width,
          a.rows * a.width, a.width,
          a.c_group_stride, a.c_row_stride,
          splits_of(a)};
}

bool codes_are_aligned(const RvqEncodeArgs& a) {
  const auto item = static_cast<int64_t>(item_size(a.dtype));
  const int64_t extents = a.width | a.c_group_stride | a.c_book_stride | a.c_row_stride;
  return (reinterpret_cast<uintptr_t>(a.codes) | static_cast<uintptr_t>(extents * item)) % 16 == 0;
}

dim3 warps_grid(int64_t warps) {
  constexpr int64_t kWarps = kNormThreads / 32;
  return dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps));
}

template <class T>
void launch_layers(const RvqEncodeArgs& a, const RvqScratch& s, void* stream) {
  const int64_t rows = a.groups * a.rows;
  launch(rvq_start_kernel<T>, warps_grid(rows), dim3(kNormThreads), 0, stream, a, s);
  const auto kernel = codes_are_aligned(a) ? rvq_search_kernel<T, true> : rvq_search_kernel<T, false>;
  for (int64_t layer = 0; layer < a.books; ++layer) {
    const DeviceSearch search = search_of(a, s, layer);
    if (a.n_q || layer < a.layers) {
      const dim3 blocks(static_cast<unsigned>(search_blocks(a.groups, a.rows) * search.splits));
      launch(kernel, blocks, dim3(kSearchThreads), 0, stream, a.metric, search, s.column + layer * a.codes_count,
             a.books * a.codes_count, s.parts);
    }
    launch(rvq_step_kernel<T>, warps_grid(rows), dim3(kNormThreads), 0, stream, a, s, layer, search.splits);
  }
}

template <class T>
void launch_all(const RvqEncodeArgs& a, const GpuContext& context) {
  const RvqScratch s = scratch_in(a, context.workspace);
  if (column_count(a) > 0) {
    launch(rvq_norms_kernel<T>, warps_grid(column_count(a)), dim3(kNormThreads), 0, context.stream, a, s.column);
  }
  if (!is_resident(a)) return launch_layers<T>(a, s, context.stream);
  const auto kernel = codes_are_aligned(a) ? rvq_stack_kernel<T, true> : rvq_stack_kernel<T, false>;
  launch(kernel, dim3(static_cast<unsigned>(search_blocks(a.groups, a.rows))), dim3(kSearchThreads),
         stack_shared_bytes(a.width), context.stream, a, static_cast<const float*>(s.column));
}

}  // namespace

size_t rvq_encode_workspace(const RvqEncodeArgs& a) {
  const auto columns = static_cast<size_t>(column_count(a)) * sizeof(float);
  if (is_resident(a)) return columns;
  const auto rows = static_cast<size_t>(a.groups * a.rows);
  return columns + rows * static_cast<size_t>(a.width + 1) * sizeof(float) +
         rows * static_cast<size_t>(splits_of(a)) * sizeof(BestColumn);
}

void rvq_encode(const RvqEncodeArgs& a, const GpuContext& context) {
  if (a.groups * a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_all<T>(a, context))
}

}  // namespace tk::quantize::gpu
