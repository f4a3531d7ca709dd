// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_column_sums.cuh"
#include "attention/attention_launch.h"
#include "attention/column_sums_launch.h"

namespace tk::attention::gpu {
namespace {

template <class T>
void launch_sums(const AttentionArgs& a, const ColumnTarget& t, bool wide, void* stream) {
  const auto blocks = static_cast<unsigned>(a.shape.batch * a.shape.heads * t.chunks);
  TK_WIDTH_SWITCH(a.shape.width, {
    launch(attention_column_sums_mma_kernel<T, kWidth>, dim3(blocks), dim3(kTileThreads),
           ForwardTile<T, kWidth>::kBytes, stream, a, t, wide);
  })
}

}  // namespace

void column_sums_half(const AttentionArgs& a, const ColumnTarget& t, bool wide, void* stream) {
  if (a.dtype == DType::f16) return launch_sums<f16_t>(a, t, wide, stream);
  launch_sums<bf16_t>(a, t, wide, stream);
}

}  // namespace tk::attention::gpu
