// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_reduce.cuh"

namespace tk::merge::gpu {
namespace {

struct Space {
  Carver carver;
  MemberSpace members;
  int64_t slots;
  float* partial;

  Space(const SegmentReduceArgs& a, void* workspace)
      : carver{static_cast<char*>(workspace)},
        members(a.index, a.batch, a.tokens, a.segments, carver),
        slots(a.tokens > kSegmentBlock ? a.tokens / kSlotStep : 0),
        partial(carver.take<float>(a.batch * slots * a.width)) {}
};

dim3 blocks_of(int64_t warps) { return dim3(static_cast<unsigned>((warps + kReduceWarps - 1) / kReduceWarps)); }

template <bool kMax, class T, int P>
void launch_reduce(const ReduceRows<T>& rows, void* stream) {
  const int64_t tiles = (rows.width + 32 * P - 1) / (32 * P);
  const dim3 threads(kReduceWarps * 32);
  if (const int64_t warps = rows.batch * rows.slots * tiles) {
    launch(segment_blocks_kernel<kMax, T, P>, blocks_of(warps), threads, 0, stream, rows);
  }
  const int64_t warps = rows.batch * rows.segments * (tiles ? tiles : 1);
  launch(segment_rows_kernel<kMax, T, P>, blocks_of(warps), threads, 0, stream, rows);
}

template <class T>
void reduce(const SegmentReduceArgs& a, const GpuContext& context) {
  constexpr int kWide = 16 / sizeof(T);
  const Space space(a, context.workspace);
  const ReduceRows<T> rows{static_cast<const T*>(a.x),
                           build_members(a.index, space.members, context),
                           a.weight,
                           static_cast<T*>(a.out),
                           a.mass,
                           space.partial,
                           a.mode == SegmentMode::mean,
                           a.batch,
                           a.tokens,
                           a.segments,
                           a.width,
                           space.slots,
                           a.x_batch_stride,
                           a.x_row_stride};
  const auto addresses = reinterpret_cast<uintptr_t>(a.x) | reinterpret_cast<uintptr_t>(a.out);
  const bool wide = addresses % 16 == 0 && (a.width | a.x_batch_stride | a.x_row_stride) % kWide == 0;
  const bool is_max = a.mode == SegmentMode::amax;
  if (wide && is_max) return launch_reduce<true, T, kWide>(rows, context.stream);
  if (wide) return launch_reduce<false, T, kWide>(rows, context.stream);
  if (is_max) return launch_reduce<true, T, 1>(rows, context.stream);
  launch_reduce<false, T, 1>(rows, context.stream);
}

}  // namespace

size_t segment_reduce_workspace(const SegmentReduceArgs& a) { return Space(a, nullptr).carver.used; }

void segment_reduce(const SegmentReduceArgs& a, const GpuContext& context) {
  if (a.batch * a.segments == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, reduce<T>(a, context))
}

}  // namespace tk::merge::gpu
