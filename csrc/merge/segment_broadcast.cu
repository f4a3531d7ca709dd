// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_broadcast.cuh"

namespace tk::merge::gpu {
namespace {

struct alignas(16) Word16 {
  uint32_t part[4];
};

template <class Word>
void launch_broadcast(const SegmentBroadcastArgs& a, void* stream) {
  const auto per_word = static_cast<int64_t>(sizeof(Word) / item_size(a.dtype));
  const BroadcastRows<Word> rows{static_cast<const Word*>(a.y),
                                 a.index,
                                 static_cast<Word*>(a.out),
                                 a.batch * a.tokens,
                                 a.tokens,
                                 a.segments,
                                 a.width / per_word,
                                 a.y_batch_stride / per_word,
                                 a.y_row_stride / per_word};
  const int64_t warps = kBroadcastThreads / 32;
  const dim3 blocks(static_cast<unsigned>((rows.total + warps - 1) / warps));
  launch(segment_broadcast_kernel<Word>, blocks, dim3(kBroadcastThreads), 0, stream, rows);
}

bool wide_rows(const SegmentBroadcastArgs& a) {
  const auto item = static_cast<int64_t>(item_size(a.dtype));
  const auto addresses = reinterpret_cast<uintptr_t>(a.y) | reinterpret_cast<uintptr_t>(a.out);
  const int64_t extents = a.width * item | a.y_batch_stride * item | a.y_row_stride * item;
  return (addresses | static_cast<uintptr_t>(extents)) % sizeof(Word16) == 0;
}

}  // namespace

size_t segment_broadcast_workspace(const SegmentBroadcastArgs&) { return 0; }

void segment_broadcast(const SegmentBroadcastArgs& a, const GpuContext& context) {
  if (a.batch * a.tokens * a.width == 0) return;
  if (wide_rows(a)) return launch_broadcast<Word16>(a, context.stream);
  if (a.dtype == DType::f32) return launch_broadcast<uint32_t>(a, context.stream);
  launch_broadcast<uint16_t>(a, context.stream);
}

}  // namespace tk::merge::gpu
