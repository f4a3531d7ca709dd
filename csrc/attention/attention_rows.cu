// SPDX-License-Identifier: Apache-2.0
#include <initializer_list>
#include <stdexcept>

#include "attention/attention_map_rows.cuh"

namespace tk::attention::gpu {
namespace {

// Rows of both arrays are whole, aligned chunks of 16 bytes.
bool is_wide(const AttentionRowsArgs& a) {
  auto bits = static_cast<uintptr_t>(a.shape.width) * item_size(a.dtype);
  for (const HeadRows* x : {&a.q, &a.k}) {
    const int64_t strides = x->batch_stride | x->head_stride | x->row_stride;
    bits |= reinterpret_cast<uintptr_t>(x->data) | static_cast<uintptr_t>(strides) * item_size(a.dtype);
  }
  return bits % 16 == 0;
}

}  // namespace

size_t attention_rows_workspace(const AttentionRowsArgs&) { return 0; }

void attention_rows(const AttentionRowsArgs& a, const GpuContext& context) {
  const int64_t warps = a.shape.batch * a.shape.heads * a.picks * ((a.shape.extents.keys + 31) / 32);
  if (warps == 0) return;
  const int64_t blocks = (warps + kMapRowThreads / 32 - 1) / (kMapRowThreads / 32);
  if (blocks >= int64_t{1} << 31) throw std::length_error("attention_rows: too many rows for a device");
  TK_FLOAT_SWITCH(a.dtype, T, {
    launch(attention_rows_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kMapRowThreads), 0, context.stream, a,
           warps, is_wide(a));
  })
}

}  // namespace tk::attention::gpu
