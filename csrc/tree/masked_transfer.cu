// SPDX-License-Identifier: Apache-2.0
#include "tree/masked_transfer.cuh"

namespace tk::tree::gpu {
namespace {

template <class T>
void launch_masked_transfer(const MaskedTransferArgs& a, const GpuContext& context) {
  const int threads = a.from.width >= kTransferThreads ? kTransferThreads : a.from.width > 128 ? 256 : 64;
  launch(masked_transfer_kernel<T>, dim3(static_cast<unsigned>(a.from.rows)), dim3(static_cast<unsigned>(threads)), 0,
         context.stream, a);
}

}  // namespace

size_t masked_transfer_workspace(const MaskedTransferArgs&) { return 0; }

void masked_transfer(const MaskedTransferArgs& a, const GpuContext& context) {
  if (a.from.rows == 0 || a.from.width == 0) return;
  TK_FLOAT_SWITCH(a.from.dtype, T, launch_masked_transfer<T>(a, context))
}

}  // namespace tk::tree::gpu
