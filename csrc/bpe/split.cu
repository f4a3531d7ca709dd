// SPDX-License-Identifier: Apache-2.0
#include "bpe/split.cuh"

namespace tk::bpe::gpu {
namespace {

int64_t tiles_of(int64_t n, int64_t tile) { return n / tile + (n % tile != 0); }

template <Pattern pattern>
void mark_pieces(const SplitArgs& a, const Marks& marks, void* stream) {
  const int64_t blocks = tiles_of(tiles_of(a.size, a.part), kSplitThreads);
  launch(mark_pieces_kernel<pattern>, dim3(static_cast<unsigned>(blocks)), dim3(kSplitThreads), 0, stream, a, marks);
}

void mark_pieces(const SplitArgs& a, const Marks& marks, void* stream) {
  switch (a.pattern) {
    case Pattern::gpt2:
      return mark_pieces<Pattern::gpt2>(a, marks, stream);
    case Pattern::cl100k:
      return mark_pieces<Pattern::cl100k>(a, marks, stream);
    case Pattern::o200k:
      return mark_pieces<Pattern::o200k>(a, marks, stream);
    case Pattern::qwen2:
      return mark_pieces<Pattern::qwen2>(a, marks, stream);
    case Pattern::tekken:
      return mark_pieces<Pattern::tekken>(a, marks, stream);
    default:
      return mark_pieces<Pattern::none>(a, marks, stream);
  }
}

}  // namespace

size_t split_workspace(const SplitArgs& a) {
  return static_cast<size_t>(tiles_of(a.size, kMarkTile) * (kMarkTile + 8));
}

void split(const SplitArgs& args, const GpuContext& context) {
  SplitArgs a = args;
  if (!a.part) a.part = kSplitPart;
  const int64_t tiles = tiles_of(a.size, kMarkTile);
  auto* mark = static_cast<uint8_t*>(context.workspace);
  const Marks marks{mark, reinterpret_cast<int64_t*>(mark + tiles * kMarkTile), tiles};
  const dim3 block(kSplitThreads);
  const dim3 grid(static_cast<unsigned>(tiles));
  if (tiles) mark_pieces(a, marks, context.stream);
  if (tiles) launch(count_marks_kernel<kSplitThreads>, grid, block, 0, context.stream, a, marks);
  launch(sum_tiles_kernel<kSplitThreads>, dim3(1), block, 0, context.stream, a, marks);
  if (tiles) launch(write_ends_kernel<kSplitThreads>, grid, block, 0, context.stream, a, marks);
}

}  // namespace tk::bpe::gpu
