// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "attention/attention_column_sums.cuh"
#include "attention/attention_launch.h"
#include "attention/column_chunks.cuh"
#include "attention/column_sums_launch.h"
#include "attention/wide_rows.h"

namespace tk::attention::gpu {
namespace {

constexpr int64_t kMost = (int64_t{1} << 31) - 1;

int64_t chunks_of(const AttentionColumnSumsArgs& a) {
  const int64_t heads = a.shape.batch * a.shape.heads;
  const int64_t slots = slots_of(a.policy, a.shape.extents, kTileRows);
  return heads == 0 ? 1 : clamped(divided_up(kSumBlocks, heads), 1, at_least(slots, 1));
}

}  // namespace

void column_sums_float32(const AttentionArgs& a, const ColumnTarget& t, bool wide, void* stream) {
  const auto blocks = static_cast<unsigned>(a.shape.batch * a.shape.heads * t.chunks);
  TK_WIDTH_SWITCH(a.shape.width, {
    launch(attention_column_sums_fma_kernel<kWidth>, dim3(blocks), dim3(kTileThreads),
           ForwardTile<float, kWidth>::kBytes, stream, a, t, wide);
  })
}

size_t attention_column_sums_workspace(const AttentionColumnSumsArgs& a) {
  const int64_t chunks = chunks_of(a);
  if (chunks == 1) return 0;
  return static_cast<size_t>(a.shape.batch * a.shape.heads * chunks * a.shape.extents.keys) * sizeof(float);
}

void attention_column_sums(const AttentionColumnSumsArgs& a, const GpuContext& context) {
  const int64_t total = a.shape.batch * a.shape.heads * a.shape.extents.keys;
  if (total == 0) return;
  if (a.shape.extents.keys > kMost) throw std::length_error("attention_column_sums: at most 2^31 - 1 keys on a device");
  const int64_t chunks = chunks_of(a);
  if (a.shape.batch * a.shape.heads > kMost / chunks) {
    throw std::length_error("attention_column_sums: at most 2^31 - 1 heads on a device");
  }
  float* sums = chunks == 1 ? a.out : static_cast<float*>(context.workspace);
  const int64_t slots = slots_of(a.policy, a.shape.extents, kTileRows);
  const ColumnTarget target{static_cast<const float*>(a.lse), a.weight, a.weight_batch_stride, sums, slots, chunks};
  // The forward loop brings values along with the keys; here they are the keys.
  const AttentionArgs core{a.q, a.k, a.k, a.key_bias, nullptr, nullptr, a.policy, a.shape, a.dtype, a.scale, 0.0};
  const bool wide = are_wide({&a.q, &a.k}, {}, a.shape.width, a.dtype);
  if (a.dtype == DType::f32) {
    column_sums_float32(core, target, wide, context.stream);
  } else {
    column_sums_half(core, target, wide, context.stream);
  }
  if (chunks == 1) return;
  launch(add_column_chunks_kernel, dim3(static_cast<unsigned>(divided_up(total, kAddThreads))), dim3(kAddThreads), 0,
         context.stream, sums, a.out, total, a.shape.extents.keys, chunks);
}

}  // namespace tk::attention::gpu
