// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_softmax.cuh"

namespace tk::merge::gpu {
namespace {

constexpr int kBlock = kSoftmaxThreads / 32;
constexpr int64_t kLong = 512;  // tokens of a segment, on average, from which a block pays

template <class Args>
SoftmaxRows rows_of(const Args& a) {
  return {a.offsets, a.batch * a.segments, a.tokens, a.segments, a.offsets_batch_stride};
}

template <class Args>
bool long_segments(const Args& a) {
  return a.tokens / a.segments >= kLong;
}

dim3 blocks_of(int64_t segments, int warps) {
  const int64_t per_block = kBlock / warps;
  return dim3(static_cast<unsigned>((segments + per_block - 1) / per_block));
}

template <class T, int W>
void launch_softmax(const SegmentSoftmaxArgs& a, void* stream) {
  launch(segment_softmax_kernel<T, W>, blocks_of(a.batch * a.segments, W), dim3(kSoftmaxThreads), 0, stream,
         static_cast<const T*>(a.scores), static_cast<T*>(a.out), rows_of(a), a.scores_batch_stride);
}

template <class T, int W>
void launch_backward(const SegmentSoftmaxBackwardArgs& a, void* stream) {
  launch(segment_softmax_backward_kernel<T, W>, blocks_of(a.batch * a.segments, W), dim3(kSoftmaxThreads), 0, stream,
         static_cast<const T*>(a.grad), static_cast<const T*>(a.p), static_cast<T*>(a.grad_scores), rows_of(a),
         a.grad_batch_stride, a.p_batch_stride);
}

}  // namespace

size_t segment_softmax_workspace(const SegmentSoftmaxArgs&) { return 0; }

void segment_softmax(const SegmentSoftmaxArgs& a, const GpuContext& context) {
  if (a.batch * a.segments * a.tokens == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, if (long_segments(a)) return launch_softmax<T, kBlock>(a, context.stream);
                  launch_softmax<T, 1>(a, context.stream))
}

size_t segment_softmax_backward_workspace(const SegmentSoftmaxBackwardArgs&) { return 0; }

void segment_softmax_backward(const SegmentSoftmaxBackwardArgs& a, const GpuContext& context) {
  if (a.batch * a.segments * a.tokens == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, if (long_segments(a)) return launch_backward<T, kBlock>(a, context.stream);
                  launch_backward<T, 1>(a, context.stream))
}

}  // namespace tk::merge::gpu
