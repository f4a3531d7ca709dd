// SPDX-License-Identifier: Apache-2.0
#include "tree/head_argmax_prob.cuh"

namespace tk::tree::gpu {
namespace {

int64_t splits_of(const HeadArgmaxProbArgs& a) {
  return column_splits(1, a.rows, a.vocabulary, blocks_for_tiles(a.dtype, a.rows));
}

// The parts come first: 16 bytes each, so that normed rows behind them are aligned.
size_t parts_bytes(const HeadArgmaxProbArgs& a) {
  static_assert(sizeof(HeadBest) == 16, "rows behind them are aligned");
  return static_cast<size_t>(splits_of(a) * a.rows) * sizeof(HeadBest);
}

template <class T>
void launch_all(const HeadArgmaxProbArgs& a, const GpuContext& context) {
  auto* parts = static_cast<HeadBest*>(context.workspace);
  DeviceSearch s{a.h, a.w, 1, a.rows, a.vocabulary, a.width, 0, a.h_row_stride, 0, a.w_row_stride, splits_of(a)};
  if (a.norm_weight) {
    auto* normed = reinterpret_cast<T*>(static_cast<unsigned char*>(context.workspace) + parts_bytes(a));
    launch(head_norm_kernel<T>, dim3(static_cast<unsigned>(a.rows)), dim3(kNormRowThreads), 0, context.stream, a,
           normed);
    s.x = normed;
    s.x_row_stride = a.width;
  }
  const bool aligned = search_is_aligned(s, a.dtype);
  const dim3 blocks(static_cast<unsigned>(search_blocks(1, a.rows) * s.splits));
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto kernel = aligned ? head_float32_kernel<true> : head_float32_kernel<false>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, context.stream, s, parts);
  } else {
    const auto kernel = aligned ? head_mma_kernel<T, true> : head_mma_kernel<T, false>;
    launch(kernel, blocks, dim3(kSearchThreads), 0, context.stream, s, parts);
  }
  constexpr int64_t kWarps = kJoinThreads / 32;
  const auto row_blocks = static_cast<unsigned>((a.rows + kWarps - 1) / kWarps);
  launch(head_join_kernel<void>, dim3(row_blocks), dim3(kJoinThreads), 0, context.stream, a,
         static_cast<const HeadBest*>(parts), s.splits);
}

}  // namespace

size_t head_argmax_prob_workspace(const HeadArgmaxProbArgs& a) {
  const size_t normed = a.norm_weight ? static_cast<size_t>(a.rows * a.width) * item_size(a.dtype) : 0;
  return parts_bytes(a) + normed;
}

void head_argmax_prob(const HeadArgmaxProbArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_all<T>(a, context))
}

}  // namespace tk::tree::gpu
