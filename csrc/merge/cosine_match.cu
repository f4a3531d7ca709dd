// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "merge/cosine_match.cuh"
#include "merge/cosine_match_mma.cuh"

namespace tk::merge::gpu {
namespace {

constexpr int64_t kWantedBlocks = 264;  // two a multiprocessor of an H100
constexpr int64_t kEnoughBlocks = 96;   // from here on, another launch costs more than idle multiprocessors
constexpr int64_t kMostColumns = int64_t{1} << 31;

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

int64_t blocks_without_splits(const CosineMatchArgs& a) { return a.batch * divide_up(a.rows, kMatchRows); }

// Ranges that the columns are cut into, so that few rows still fill the device.
int64_t column_splits(const CosineMatchArgs& a) {
  const int64_t blocks = blocks_without_splits(a);
  const int64_t tiles = divide_up(a.columns, kMatchColumns);
  if (blocks == 0 || blocks >= kEnoughBlocks || tiles <= 1) return 1;
  const int64_t wanted = divide_up(kWantedBlocks, blocks);
  return wanted < tiles ? wanted : tiles;
}

bool aligned(const CosineMatchArgs& a) {
  const auto item = static_cast<int64_t>(item_size(a.dtype));
  const auto addresses = reinterpret_cast<uintptr_t>(a.a) | reinterpret_cast<uintptr_t>(a.b);
  const int64_t extents = a.width | a.a_batch_stride | a.a_row_stride | a.b_batch_stride | a.b_row_stride;
  return (addresses | static_cast<uintptr_t>(extents * item)) % 16 == 0;
}

MatchScratch scratch_in(const CosineMatchArgs& a, int64_t splits, void* workspace) {
  MatchScratch s;
  s.inverse_a = static_cast<float*>(workspace);
  s.inverse_b = s.inverse_a + a.batch * a.rows;
  s.score = s.inverse_b + a.batch * a.columns;
  s.index = reinterpret_cast<int*>(s.score + splits * a.batch * a.rows);
  return s;
}

template <class Kernel>
void launch_match(Kernel* kernel, const CosineMatchArgs& a, const MatchScratch& s, int64_t splits, void* stream) {
  const auto blocks = static_cast<unsigned>(blocks_without_splits(a) * splits);
  launch(kernel, dim3(blocks), dim3(kMatchThreads), 0, stream, a, s, splits);
}

template <class T>
void launch_all(const CosineMatchArgs& a, const MatchScratch& s, int64_t splits, void* stream) {
  const auto norm_blocks = static_cast<unsigned>(divide_up(a.batch * (a.rows + a.columns), kNormThreads / 32));
  launch(match_norms_kernel<T>, dim3(norm_blocks), dim3(kNormThreads), 0, stream, a, s);
  if constexpr (sizeof(T) == sizeof(float)) {
    launch_match(aligned(a) ? match_float32_kernel<true> : match_float32_kernel<false>, a, s, splits, stream);
  } else {
    launch_match(aligned(a) ? match_mma_kernel<T, true> : match_mma_kernel<T, false>, a, s, splits, stream);
  }
  if (splits == 1) return;
  const auto row_blocks = static_cast<unsigned>(divide_up(a.batch * a.rows, kNormThreads));
  launch(match_splits_kernel<void>, dim3(row_blocks), dim3(kNormThreads), 0, stream, a, s, splits);
}

}  // namespace

size_t cosine_match_workspace(const CosineMatchArgs& a) {
  const int64_t rows = a.batch * a.rows;
  const int64_t splits = column_splits(a);
  const int64_t partial = splits == 1 ? 0 : 2 * splits * rows;
  return static_cast<size_t>(rows + a.batch * a.columns + partial) * sizeof(float);
}

void cosine_match(const CosineMatchArgs& a, const GpuContext& context) {
  if (a.batch * a.rows == 0) return;
  if (a.columns >= kMostColumns) throw std::length_error("cosine_match: at most 2^31 - 1 columns on a device");
  const int64_t splits = column_splits(a);
  const MatchScratch s = scratch_in(a, splits, context.workspace);
  TK_FLOAT_SWITCH(a.dtype, T, launch_all<T>(a, s, splits, context.stream))
}

}  // namespace tk::merge::gpu
