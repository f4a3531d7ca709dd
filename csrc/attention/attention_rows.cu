// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "attention/attention_map_rows.cuh"
#include "attention/wide_rows.h"

namespace tk::attention::gpu {

size_t attention_rows_workspace(const AttentionRowsArgs&) { return 0; }

void attention_rows(const AttentionRowsArgs& a, const GpuContext& context) {
  const int64_t warps = a.shape.batch * a.shape.heads * a.picks * ((a.shape.extents.keys + 31) / 32);
  if (warps == 0) return;
  const int64_t blocks = (warps + kMapRowThreads / 32 - 1) / (kMapRowThreads / 32);
  if (blocks >= int64_t{1} << 31) throw std::length_error("attention_rows: too many rows for a device");
  TK_FLOAT_SWITCH(a.dtype, T, {
    launch(attention_rows_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kMapRowThreads), 0, context.stream, a,
           warps, are_wide({&a.q, &a.k}, {}, a.shape.width, a.dtype));
  })
}

}  // namespace tk::attention::gpu
