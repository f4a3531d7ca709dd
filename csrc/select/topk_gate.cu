// SPDX-License-Identifier: Apache-2.0
#include "select/topk_gate.cuh"

namespace tk::selection::gpu {
namespace {

void clear_counts(const TopkGateArgs& a, void* stream) {
  const int64_t total = a.batch * a.logits.width;
  if (total == 0) return;
  launch(clear_gate_counts_kernel, dim3(static_cast<unsigned>((total + kGateBlock - 1) / kGateBlock)), dim3(kGateBlock),
         0, stream, a.counts, total);
}

template <class T, int V>
void launch_warps(const TopkGateArgs& a, void* stream) {
  const int64_t blocks = (a.tokens + kGateBlockRows - 1) / kGateBlockRows;
  launch(gate_warps_kernel<T, V>, dim3(static_cast<unsigned>(a.batch * blocks)), dim3(kGateBlock), 0, stream, a,
         blocks);
}

template <class T>
void launch_block(const TopkGateArgs& a, void* stream) {
  int64_t size = 2;
  while (size < a.k) size *= 2;
  const int64_t threads = a.logits.width >= kThreads ? kThreads : 256;
  launch(gate_block_kernel<T>, dim3(static_cast<unsigned>(a.logits.rows)), dim3(static_cast<unsigned>(threads)),
         static_cast<size_t>(size) * sizeof(uint64_t), stream, a, size);
}

template <class T>
void launch_gate(const TopkGateArgs& a, void* stream) {
  if (a.logits.width <= 32) return launch_warps<T, 1>(a, stream);
  if (a.logits.width <= 64) return launch_warps<T, 2>(a, stream);
  if (a.logits.width <= kWarpExperts) return launch_warps<T, kMostKeys>(a, stream);
  launch_block<T>(a, stream);
}

}  // namespace

size_t topk_gate_workspace(const TopkGateArgs&) { return 0; }

void topk_gate(const TopkGateArgs& a, const GpuContext& context) {
  clear_counts(a, context.stream);
  if (a.k == 0 || a.logits.rows == 0) return;
  TK_FLOAT_SWITCH(a.logits.dtype, T, launch_gate<T>(a, context.stream))
}

}  // namespace tk::selection::gpu
