// SPDX-License-Identifier: Apache-2.0
#include "quantize/sign_pack.cuh"

namespace tk::quantize::gpu {
namespace {

template <class T>
void launch_sign_pack(const SignPackArgs& a, dim3 blocks, void* stream) {
  if (a.split.bits) {
    launch(sign_pack_kernel<T>, blocks, dim3(kSignThreads), 0, stream, a);
  } else {
    launch(sign_pack_widths_kernel<T>, blocks, dim3(kSignThreads), 0, stream, a);
  }
}

}  // namespace

size_t sign_pack_workspace(const SignPackArgs&) { return 0; }

void sign_pack(const SignPackArgs& a, const GpuContext& context) {
  const int64_t total = a.rows * a.split.groups;
  if (total == 0) return;
  const dim3 blocks(static_cast<unsigned>((total + kSignThreads - 1) / kSignThreads));
  TK_FLOAT_SWITCH(a.dtype, T, launch_sign_pack<T>(a, blocks, context.stream))
}

}  // namespace tk::quantize::gpu
