// SPDX-License-Identifier: Apache-2.0
#include "quantize/fsq_decode.cuh"

namespace tk::quantize::gpu {

size_t fsq_decode_workspace(const FsqDecodeArgs&) { return 0; }

void fsq_decode(const FsqDecodeArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  const int64_t tile = decode_tile_rows(a.grid.axes);
  const dim3 blocks(static_cast<unsigned>((a.rows + tile - 1) / tile));
  TK_FLOAT_SWITCH(a.dtype, T, launch(fsq_decode_kernel<T>, blocks, dim3(kDecodeThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
