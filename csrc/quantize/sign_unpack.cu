// SPDX-License-Identifier: Apache-2.0
#include "quantize/sign_unpack.cuh"

namespace tk::quantize::gpu {
namespace {

template <class T>
void launch_sign_unpack(const SignUnpackArgs& a, void* stream) {
  const int64_t items = a.rows * (a.split.bits ? a.split.channels : a.split.groups);
  const dim3 blocks(static_cast<unsigned>((items + kUnpackThreads - 1) / kUnpackThreads));
  if (a.split.bits) {
    launch(sign_unpack_kernel<T>, blocks, dim3(kUnpackThreads), 0, stream, a);
  } else {
    launch(sign_unpack_widths_kernel<T>, blocks, dim3(kUnpackThreads), 0, stream, a);
  }
}

}  // namespace

size_t sign_unpack_workspace(const SignUnpackArgs&) { return 0; }

void sign_unpack(const SignUnpackArgs& a, const GpuContext& context) {
  if (a.rows == 0 || a.split.channels == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_sign_unpack<T>(a, context.stream))
}

}  // namespace tk::quantize::gpu
