// SPDX-License-Identifier: Apache-2.0
#include "core/nearest_column.cuh"

namespace tk::gpu {
namespace {

unsigned blocks_for(int64_t items, int64_t a_block) { return static_cast<unsigned>((items + a_block - 1) / a_block); }

bool is_narrow(const NearestColumn& a) { return a.width <= kNarrowWidth; }

int64_t row_blocks(const NearestColumn& a) {
  const int64_t rows = is_narrow(a) ? kNarrowBlockRows : kSearchRows;
  return a.batch * ((a.rows + rows - 1) / rows);
}

int64_t splits_of(const NearestColumn& a) {
  return splits_for(row_blocks(a), a.columns, is_narrow(a) ? kFewBlocks : blocks_for_tiles(a.dtype, a.rows));
}

DeviceSearch search_of(const NearestColumn& a) {
  return {a.x,
          a.y,
          a.batch,
          a.rows,
          a.columns,
          a.width,
          a.x_batch_stride,
          a.x_row_stride,
          a.y_batch_stride,
          a.y_row_stride,
          splits_of(a)};
}

template <class Best>
size_t workspace_of(const NearestColumn& a) {
  const int64_t splits = splits_of(a);
  const size_t parts = splits == 1 ? 0 : static_cast<size_t>(splits * a.batch * a.rows) * sizeof(Best);
  return parts + (is_narrow(a) ? 0 : static_cast<size_t>(a.batch * (a.rows + a.columns)) * sizeof(float));
}

template <class Best>
NearestScratch<Best> scratch_in(const NearestColumn& a, void* workspace) {
  NearestScratch<Best> s;
  s.row = static_cast<float*>(workspace);
  s.column = s.row + a.batch * a.rows;
  s.parts = is_narrow(a) ? static_cast<Best*>(workspace) : reinterpret_cast<Best*>(s.column + a.batch * a.columns);
  return s;
}

template <class T, int kWidth, class Best>
void launch_narrow(const NearestColumn& a, int64_t splits, Best* parts, void* stream) {
  if constexpr (kWidth < kNarrowWidth) {
    if (a.width > kWidth) return launch_narrow<T, 2 * kWidth>(a, splits, parts, stream);
  }
  const dim3 blocks(static_cast<unsigned>(row_blocks(a) * splits));
  launch(nearest_narrow_kernel<T, kWidth, Best>, blocks, dim3(kNarrowThreads), 0, stream, a, splits, parts);
}

template <class T, class Best>
void launch_wide(const NearestColumn& a, const DeviceSearch& search, const NearestScratch<Best>& s, void* stream) {
  const unsigned norm_blocks = blocks_for(a.batch * (a.rows + a.columns), kNormThreads / 32);
  launch(nearest_norms_kernel<T>, dim3(norm_blocks), dim3(kNormThreads), 0, stream, search, a.metric, s.row, s.column);
  const bool aligned = search_is_aligned(search, a.dtype);
  const dim3 blocks(static_cast<unsigned>(row_blocks(a) * search.splits));
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto kernel = aligned ? nearest_fma_kernel<true, Best> : nearest_fma_kernel<false, Best>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, stream, a, search, s);
  } else {
    const auto kernel = aligned ? nearest_mma_kernel<T, true, Best> : nearest_mma_kernel<T, false, Best>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, stream, a, search, s);
  }
}

template <class T, class Best>
void launch_all(const NearestColumn& a, const GpuContext& context) {
  const DeviceSearch search = search_of(a);
  const NearestScratch<Best> s = scratch_in<Best>(a, context.workspace);
  if (is_narrow(a)) {
    launch_narrow<T, 1>(a, search.splits, s.parts, context.stream);
  } else {
    launch_wide<T>(a, search, s, context.stream);
  }
  if (search.splits == 1) return;
  const dim3 blocks(blocks_for(a.batch * a.rows, kNormThreads / 32));
  launch(nearest_join_kernel<T, Best>, blocks, dim3(kNormThreads), 0, context.stream, a, search.splits,
         static_cast<const Best*>(s.parts));
}

}  // namespace

size_t nearest_column_workspace(const NearestColumn& a) {
  return a.second ? workspace_of<BestTwo>(a) : workspace_of<BestColumn>(a);
}

void nearest_column(const NearestColumn& a, const GpuContext& context) {
  if (a.batch * a.rows == 0) return;
  if (a.second) {
    TK_FLOAT_SWITCH(a.dtype, T, (launch_all<T, BestTwo>(a, context)))
  } else {
    TK_FLOAT_SWITCH(a.dtype, T, (launch_all<T, BestColumn>(a, context)))
  }
}

}  // namespace tk::gpu
