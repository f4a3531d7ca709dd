// SPDX-License-Identifier: Apache-2.0
#include "quantize/fsq_encode.cuh"

namespace tk::quantize::gpu {

size_t fsq_encode_workspace(const FsqEncodeArgs&) { return 0; }

void fsq_encode(const FsqEncodeArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  const int64_t tile = grid_tile_rows(a.grid.axes);
  const dim3 blocks(static_cast<unsigned>((a.rows + tile - 1) / tile));
  TK_FLOAT_SWITCH(a.dtype, T, launch(fsq_encode_kernel<T>, blocks, dim3(kGridThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
