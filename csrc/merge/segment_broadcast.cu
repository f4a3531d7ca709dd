// SPDX-License-Identifier: Apache-2.0
#include "merge/row_words.h"
#include "merge/segment_broadcast.cuh"

namespace tk::merge::gpu {
namespace {

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

}  // namespace

size_t segment_broadcast_workspace(const SegmentBroadcastArgs&) { return 0; }

void segment_broadcast(const SegmentBroadcastArgs& a, const GpuContext& context) {
  if (a.batch * a.tokens * a.width == 0) return;
  const bool wide = fits_words({a.y, a.out}, {a.width, a.y_batch_stride, a.y_row_stride}, a.dtype);
  if (wide) return launch_broadcast<Word16>(a, context.stream);
  if (a.dtype == DType::f32) return launch_broadcast<uint32_t>(a, context.stream);
  launch_broadcast<uint16_t>(a, context.stream);
}

}  // namespace tk::merge::gpu
