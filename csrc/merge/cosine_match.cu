// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "merge/cosine_match.cuh"

namespace tk::merge::gpu {
namespace {

constexpr int64_t kMostColumns = int64_t{1} << 31;

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

int64_t splits_of(const CosineMatchArgs& a) {
  return column_splits(a.batch, a.rows, a.columns, blocks_for_tiles(a.dtype, a.rows));
}

MatchScratch scratch_in(const CosineMatchArgs& a, int64_t splits, void* workspace) {
  MatchScratch s;
  s.inverse_a = static_cast<float*>(workspace);
  s.inverse_b = s.inverse_a + a.batch * a.rows;
  s.score = s.inverse_b + a.batch * a.columns;
  s.index = reinterpret_cast<int*>(s.score + splits * a.batch * a.rows);
  return s;
}

template <class T>
void launch_all(const CosineMatchArgs& a, const DeviceSearch& search, const MatchScratch& s, void* stream) {
  const auto norm_blocks = static_cast<unsigned>(divide_up(a.batch * (a.rows + a.columns), kNormThreads / 32));
  launch(match_norms_kernel<T>, dim3(norm_blocks), dim3(kNormThreads), 0, stream, a, s);
  const bool aligned = search_is_aligned(search, a.dtype);
  const dim3 blocks(static_cast<unsigned>(search_blocks(a.batch, a.rows) * search.splits));
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto kernel = aligned ? match_float32_kernel<true> : match_float32_kernel<false>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, stream, a, search, s);
  } else {
    const auto kernel = aligned ? match_mma_kernel<T, true> : match_mma_kernel<T, false>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, stream, a, search, s);
  }
  if (search.splits == 1) return;
  const auto row_blocks = static_cast<unsigned>(divide_up(a.batch * a.rows, kNormThreads));
  launch(match_splits_kernel<void>, dim3(row_blocks), dim3(kNormThreads), 0, stream, a, s, search.splits);
}

}  // namespace

size_t cosine_match_workspace(const CosineMatchArgs& a) {
  const int64_t rows = a.batch * a.rows;
  const int64_t splits = splits_of(a);
  const int64_t partial = splits == 1 ? 0 : 2 * splits * rows;
  return static_cast<size_t>(rows + a.batch * a.columns + partial) * sizeof(float);
}

void cosine_match(const CosineMatchArgs& a, const GpuContext& context) {
  if (a.batch * a.rows == 0) return;
  if (a.columns >= kMostColumns) throw std::length_error("cosine_match: at most 2^31 - 1 columns on a device");
  const DeviceSearch search{a.a,
                            a.b,
                            a.batch,
                            a.rows,
                            a.columns,
                            a.width,
                            a.a_batch_stride,
                            a.a_row_stride,
                            a.b_batch_stride,
                            a.b_row_stride,
                            splits_of(a)};
  const MatchScratch s = scratch_in(a, search.splits, context.workspace);
  TK_FLOAT_SWITCH(a.dtype, T, launch_all<T>(a, search, s, context.stream))
}

}  // namespace tk::merge::gpu
