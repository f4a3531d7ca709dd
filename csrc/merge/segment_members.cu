// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "merge/segment_members.cuh"

namespace tk::merge::gpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

MemberSpace::MemberSpace(const SegmentIndex& index, int64_t batch, int64_t row_tokens, int64_t row_segments,
                         Carver& carver)
    : rows(index.batch_stride ? batch : 1),
      tokens(row_tokens),
      segments(row_segments),
      chunks(row_tokens <= kSortChunk                ? 1  // also of no token: its counts are cleared
             : row_tokens < kSortChunk * kSortChunks ? ceil_div(row_tokens, kSortChunk)
                                                     : kSortChunks),
      chunk(row_tokens <= kSortChunk * kSortChunks ? kSortChunk : ceil_div(row_tokens, kSortChunks)) {
  if (!index.ids) rows = 0;
  offsets = carver.take<int64_t>(rows * (segments + 1));
  order = carver.take<int>(rows * tokens);
  counts = carver.take<int>(rows * chunks * segments);
  totals = carver.take<int>(chunks > 1 ? rows * segments : 0);
}

namespace {

void sort_rows(const int64_t* ids, const MemberSpace& space, void* stream) {
  const dim3 rows(static_cast<unsigned>(space.rows));
  const dim3 threads(kSortThreads);
  if (space.chunks <= 1) {
    if (space.segments > kSortShared) return launch(sort_row_kernel<false>, rows, threads, 0, stream, ids, space);
    const size_t shared = static_cast<size_t>(space.segments) * sizeof(int);
    return launch(sort_row_kernel<true>, rows, threads, shared, stream, ids, space);
  }
  const dim3 chunks(static_cast<unsigned>(space.rows * space.chunks));
  const auto columns = static_cast<unsigned>(ceil_div(space.rows * space.segments, kSortThreads));
  launch(count_chunk_kernel<>, chunks, threads, 0, stream, ids, space);
  if (columns) launch(sum_chunks_kernel<>, dim3(columns), threads, 0, stream, space);
  launch(scan_totals_kernel<>, rows, threads, 0, stream, space);
  launch(place_chunk_kernel<>, chunks, threads, 0, stream, ids, space);
}

}  // namespace

Members build_members(const SegmentIndex& index, const MemberSpace& space, const GpuContext& context) {
  if (!index.ids) return {index.offsets, nullptr, index.batch_stride, 0};
  if (space.tokens > INT32_MAX || space.segments >= INT32_MAX) {
    throw std::length_error("tokernel: on a device ids reach over fewer than 2^31 tokens and segments");
  }
  if (space.rows) sort_rows(index.ids, space, context.stream);
  const bool shared = index.batch_stride == 0;
  return {space.offsets, space.order, shared ? 0 : space.segments + 1, shared ? 0 : space.tokens};
}

}  // namespace tk::merge::gpu
