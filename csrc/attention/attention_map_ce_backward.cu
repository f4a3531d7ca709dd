// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_map_ce_backward.cuh"

namespace tk::attention::gpu {
namespace {

template <class T, bool swapped, int kColumns>
void launch_side(const AttentionMapCeBackwardArgs& a, void* stream) {
  const int64_t rows = swapped ? a.keys : a.queries;
  const int64_t blocks = a.batch * a.heads * ((rows + kMapTile - 1) / kMapTile);
  if (blocks == 0) return;
  launch(attention_map_ce_backward_kernel<T, swapped, kColumns>, dim3(static_cast<unsigned>(blocks)), dim3(kMapThreads),
         0, stream, a);
}

template <class T, int kColumns>
void launch_both(const AttentionMapCeBackwardArgs& a, void* stream) {
  launch_side<T, false, kColumns>(a, stream);
  launch_side<T, true, kColumns>(a, stream);
}

template <class T>
void launch_width(const AttentionMapCeBackwardArgs& a, void* stream) {
  if (a.student.width <= 64) return launch_both<T, 4>(a, stream);
  if (a.student.width <= 128) return launch_both<T, 8>(a, stream);
  return launch_both<T, 16>(a, stream);
}

}  // namespace

size_t attention_map_ce_backward_workspace(const AttentionMapCeBackwardArgs&) { return 0; }

void attention_map_ce_backward(const AttentionMapCeBackwardArgs& a, const GpuContext& context) {
  TK_FLOAT_SWITCH(a.dtype, T, launch_width<T>(a, context.stream))
}

}  // namespace tk::attention::gpu
