// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_reduce_backward.cuh"

namespace tk::merge::gpu {
namespace {

// Members are sorted only where a pass runs over segments.
bool needs_members(const SegmentReduceBackwardArgs& a) { return a.mode != SegmentMode::sum; }

struct Space {
  Carver carver;
  MemberSpace members;
  float* divisor;

  Space(const SegmentReduceBackwardArgs& a, void* workspace)
      : carver{static_cast<char*>(workspace)},
        members(needs_members(a) ? a.index : SegmentIndex{}, a.batch, a.tokens, a.segments, carver),
        divisor(carver.take<float>(a.mode == SegmentMode::mean ? a.batch * a.segments : 0)) {}
};

dim3 blocks_of(int64_t warps) { return dim3(static_cast<unsigned>((warps + kBackwardWarps - 1) / kBackwardWarps)); }

template <class T>
constexpr int kWide = 16 / sizeof(T);

template <class T>
bool wide_rows(const BackwardRows<T>& a) {
  const auto addresses = reinterpret_cast<uintptr_t>(a.grad) | reinterpret_cast<uintptr_t>(a.grad_x) |
                         (a.grad_weight ? reinterpret_cast<uintptr_t>(a.x) : 0);
  const int64_t strides = a.grad_weight ? a.x_batch_stride | a.x_row_stride : 0;
  return addresses % 16 == 0 && (a.width | a.grad_batch_stride | a.grad_row_stride | strides) % kWide<T> == 0;
}

template <class T>
void backward_of_sum(const BackwardRows<T>& rows, void* stream) {
  const dim3 threads(kBackwardThreads);
  const dim3 segments = blocks_of(rows.batch * rows.segments);
  const bool any_segment = rows.batch * rows.segments != 0;
  if (rows.divisor && any_segment) launch(segment_mass_kernel<T>, segments, threads, 0, stream, rows);
  const dim3 tokens = blocks_of(rows.batch * rows.tokens);
  if (wide_rows(rows)) {
    launch(segment_grad_kernel<T, kWide<T>>, tokens, threads, 0, stream, rows);
  } else {
    launch(segment_grad_kernel<T, 1>, tokens, threads, 0, stream, rows);
  }
  if (rows.divisor && rows.grad_weight && any_segment) {
    launch(segment_centre_kernel<T>, segments, threads, 0, stream, rows);
  }
}

template <class T>
void backward_of_max(const BackwardRows<T>& rows, void* stream) {
  const dim3 threads(kBackwardThreads);
  const int64_t count = rows.batch * rows.tokens * rows.width;
  if (count == 0) return;
  const dim3 elements(static_cast<unsigned>((count + kBackwardThreads - 1) / kBackwardThreads));
  launch(clear_rows_kernel<T>, elements, threads, 0, stream, rows.grad_x, count);
  if (const int64_t warps = rows.batch * rows.segments * ((rows.width + 31) / 32)) {
    launch(segment_winner_kernel<T>, blocks_of(warps), threads, 0, stream, rows);
  }
}

template <class T>
void backward(const SegmentReduceBackwardArgs& a, const GpuContext& context) {
  const Space space(a, context.workspace);
  const BackwardRows<T> rows{static_cast<const T*>(a.grad),
                             static_cast<const T*>(a.x),
                             a.index,
                             needs_members(a) ? build_members(a.index, space.members, context) : Members{},
                             a.weight,
                             a.grad_mass,
                             static_cast<T*>(a.grad_x),
                             a.grad_weight,
                             a.mode == SegmentMode::mean ? space.divisor : nullptr,
                             a.batch,
                             a.tokens,
                             a.segments,
                             a.width,
                             a.grad_batch_stride,
                             a.grad_row_stride,
                             a.x_batch_stride,
                             a.x_row_stride};
  if (a.mode == SegmentMode::amax) return backward_of_max(rows, context.stream);
  backward_of_sum(rows, context.stream);
}

}  // namespace

size_t segment_reduce_backward_workspace(const SegmentReduceBackwardArgs& a) { return Space(a, nullptr).carver.used; }

void segment_reduce_backward(const SegmentReduceBackwardArgs& a, const GpuContext& context) {
  if (a.batch * a.tokens == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, backward<T>(a, context))
}

}  // namespace tk::merge::gpu
