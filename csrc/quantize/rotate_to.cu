// SPDX-License-Identifier: Apache-2.0
#include "quantize/rotate_to.cuh"

namespace tk::quantize::gpu {
namespace {

dim3 rotate_blocks(int64_t rows) {
  return dim3(static_cast<unsigned>((rows * 32 + kRotateThreads - 1) / kRotateThreads));
}

}  // namespace

size_t rotate_to_workspace(const RotateToArgs&) { return 0; }

void rotate_to(const RotateToArgs& a, const GpuContext& context) {
  if (a.rows * a.width == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(rotate_to_kernel<T>, rotate_blocks(a.rows), dim3(kRotateThreads), 0, context.stream, a))
}

size_t rotate_to_backward_workspace(const RotateToBackwardArgs&) { return 0; }

void rotate_to_backward(const RotateToBackwardArgs& a, const GpuContext& context) {
  if (a.rows * a.width == 0) return;
  TK_FLOAT_SWITCH(
      a.dtype, T,
      launch(rotate_to_backward_kernel<T>, rotate_blocks(a.rows), dim3(kRotateThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
