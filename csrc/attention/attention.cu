// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "attention/attention_fma.cuh"
#include "attention/attention_launch.h"
#include "attention/wide_rows.h"

namespace tk::attention::gpu {
namespace {

constexpr int64_t kMost = (int64_t{1} << 31) - 1;

}  // namespace

void attention_float32(const AttentionArgs& a, int64_t slots, bool wide, void* stream) {
  const auto blocks = static_cast<unsigned>(a.shape.batch * a.shape.heads * slots);
  TK_WIDTH_SWITCH(a.shape.width, {
    using Tile = ForwardTile<float, kWidth>;
    launch(attention_fma_kernel<kWidth>, dim3(blocks), dim3(Tile::kThreads), Tile::kBytes, stream, a, slots, wide);
  })
}

size_t attention_workspace(const AttentionArgs&) { return 0; }

void attention(const AttentionArgs& a, const GpuContext& context) {
  const int64_t slots = slots_of(a.policy, a.shape.extents, kTileRows);
  if (a.shape.batch * a.shape.heads * a.shape.extents.queries == 0) return;
  if (a.shape.extents.keys > kMost) throw std::length_error("attention: at most 2^31 - 1 keys on a device");
  if (a.shape.batch * a.shape.heads > kMost / slots) {
    throw std::length_error("attention: at most 2^31 - 1 tiles of 64 queries on a device");
  }
  const bool wide = are_wide({&a.q, &a.k, &a.v}, {a.out}, a.shape.width, a.dtype);
  if (a.dtype == DType::f16) return attention_float16(a, slots, wide, context.stream);
  if (a.dtype == DType::bf16) return attention_bfloat16(a, slots, wide, context.stream);
  attention_float32(a, slots, wide, context.stream);
}

}  // namespace tk::attention::gpu
