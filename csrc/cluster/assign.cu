// SPDX-License-Identifier: Apache-2.0
#include "cluster/assign.cuh"

namespace tk::cluster::gpu {
namespace {

unsigned blocks_for(int64_t items, int64_t a_block) { return static_cast<unsigned>((items + a_block - 1) / a_block); }

int64_t splits_of(const AssignArgs& a) { return column_splits(a.batch, a.rows, a.clusters); }

AssignScratch scratch_in(const AssignArgs& a, int64_t splits, void* workspace) {
  AssignScratch s;
  s.row = static_cast<float*>(workspace);
  s.column = s.row + a.batch * a.rows;
  s.score = s.column + a.batch * a.clusters;
  s.index = reinterpret_cast<int*>(s.score + splits * a.batch * a.rows);
  return s;
}

template <class T>
void launch_all(const AssignArgs& a, const DeviceSearch& search, const AssignScratch& s, void* stream) {
  const unsigned norm_blocks = blocks_for(a.batch * (a.rows + a.clusters), kNormThreads / 32);
  launch(assign_norms_kernel<T>, dim3(norm_blocks), dim3(kNormThreads), 0, stream, a, s);
  const bool aligned = search_is_aligned(search, a.dtype);
  const dim3 blocks(static_cast<unsigned>(search_blocks(a.batch, a.rows) * search.splits));
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto kernel = aligned ? assign_float32_kernel<true> : assign_float32_kernel<false>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, stream, a, search, s);
  } else {
    const auto kernel = aligned ? assign_mma_kernel<T, true> : assign_mma_kernel<T, false>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, stream, a, search, s);
  }
  if (search.splits == 1) return;
  const dim3 row_blocks(blocks_for(a.batch * a.rows, kNormThreads));
  launch(assign_splits_kernel<void>, row_blocks, dim3(kNormThreads), 0, stream, a, s, search.splits);
}

}  // namespace

size_t assign_workspace(const AssignArgs& a) {
  const int64_t rows = a.batch * a.rows;
  const int64_t splits = splits_of(a);
  const int64_t partial = splits == 1 ? 0 : 2 * splits * rows;
  return static_cast<size_t>(rows + a.batch * a.clusters + partial) * sizeof(float);
}

void assign(const AssignArgs& a, const GpuContext& context) {
  if (a.batch * a.rows == 0) return;
  const DeviceSearch search{a.x,         a.centroids,      a.batch,        a.rows,           a.clusters,
                            a.width,     a.x_batch_stride, a.x_row_stride, a.c_batch_stride, a.c_row_stride,
                            splits_of(a)};
  const AssignScratch s = scratch_in(a, search.splits, context.workspace);
  TK_FLOAT_SWITCH(a.dtype, T, launch_all<T>(a, search, s, context.stream))
}

}  // namespace tk::cluster::gpu
