// SPDX-License-Identifier: Apache-2.0
#include "bpe/encode_batch.cuh"
#include "merge/segment_members.cuh"

namespace tk::bpe::gpu {
namespace {

using merge::gpu::Carver;

EncodeSpace encode_space(const EncodeBatchArgs& a, Carver& carver) {
  const int64_t n = a.bytes;
  EncodeSpace space{};
  space.counters = carver.take<EncodeCounters>(1);
  space.marks = carver.take<unsigned>(n / 32 + 1);
  space.piece_starts = carver.take<int32_t>(n);
  space.slots = carver.take<int32_t>(n);
  space.ranks = carver.take<int32_t>(n);
  space.medium = carver.take<int32_t>(n / (kWarpPiece + 1) + 1);
  space.longer = carver.take<int32_t>(n / (kMediumPiece + 1) + 1);
  space.sums = carver.take<unsigned long long>(prefix_tiles(n) + 1);
  return space;
}

dim3 blocks(int64_t items, int64_t of_block) { return dim3(static_cast<unsigned>((items + of_block - 1) / of_block)); }

// For loops over lists whose length only the device knows.
dim3 few_blocks(int64_t most, int64_t of_block) {
  const int64_t wanted = (most + of_block - 1) / of_block;
  return dim3(static_cast<unsigned>(wanted < kMostBlocks ? wanted : kMostBlocks));
}

void mark_starts(const EncodeBatchArgs& a, const EncodeSpace& space, void* stream) {
  const auto kernel = [&] {
    switch (a.pattern) {
      case Pattern::gpt2:
        return mark_starts_kernel<Pattern::gpt2>;
      case Pattern::cl100k:
        return mark_starts_kernel<Pattern::cl100k>;
      case Pattern::o200k:
        return mark_starts_kernel<Pattern::o200k>;
      case Pattern::qwen2:
        return mark_starts_kernel<Pattern::qwen2>;
      case Pattern::tekken:
        return mark_starts_kernel<Pattern::tekken>;
      default:
        return mark_starts_kernel<Pattern::none>;
    }
  }();
  launch(kernel, blocks(a.bytes, kScanPart * kScanThreads), dim3(kScanThreads), 0, stream, a, space);
}

void encode_pieces(const EncodeBatchArgs& a, const EncodeSpace& space, void* stream) {
  launch(encode_pieces_kernel<kEncodeThreads>, few_blocks(a.bytes, kEncodeThreads), dim3(kEncodeThreads), 0, stream, a,
         space);
  if (a.bytes > kWarpPiece) {
    launch(merge_pieces_kernel<kMediumThreads, true>, few_blocks(a.bytes, kWarpPiece + 1), dim3(kMediumThreads), 0,
           stream, a, space);
  }
  if (a.bytes > kMediumPiece) {
    launch(merge_pieces_kernel<kLongThreads, false>, few_blocks(a.bytes, kMediumPiece + 1), dim3(kLongThreads), 0,
           stream, a, space);
  }
}

}  // namespace

size_t encode_batch_workspace(const EncodeBatchArgs& a) {
  Carver carver{nullptr};
  encode_space(a, carver);
  return carver.used;
}

void encode_batch(const EncodeBatchArgs& a, const GpuContext& context) {
  Carver carver{static_cast<char*>(context.workspace)};
  const EncodeSpace space = encode_space(a, carver);
  void* const stream = context.stream;
  launch(clear_encoding_kernel<kEncodeThreads>, blocks(a.bytes + 1, kEncodeThreads), dim3(kEncodeThreads), 0, stream, a,
         space);
  if (a.bytes) {
    mark_starts(a, space, stream);
    prefix_sums(PieceStartSource{space}, PieceStartSink{space}, a.bytes / 32 + 1, space.sums, &space.counters->pieces,
                stream);
    encode_pieces(a, space, stream);
  }
  prefix_sums(SlotSource{space}, SlotSink{a, space}, a.bytes, space.sums, &space.counters->tokens, stream);
  launch(encoding_starts_kernel<kEncodeThreads>, blocks((a.batch + 1) * 32, kEncodeThreads), dim3(kEncodeThreads), 0,
         stream, a, space);
}

}  // namespace tk::bpe::gpu
