// SPDX-License-Identifier: Apache-2.0
#include "bpe/split.cuh"

namespace tk::bpe::gpu {
namespace {

template <Pattern pattern>
void mark_pieces(const SplitArgs& a, uint8_t* mark, void* stream) {
  const int64_t parts = a.size / a.part + (a.size % a.part != 0);
  const int64_t blocks = (parts + kSplitThreads - 1) / kSplitThreads;
  launch(mark_pieces_kernel<pattern>, dim3(static_cast<unsigned>(blocks)), dim3(kSplitThreads), 0, stream, a, mark);
}

void mark_pieces(const SplitArgs& a, uint8_t* mark, void* stream) {
  switch (a.pattern) {
    case Pattern::gpt2:
      return mark_pieces<Pattern::gpt2>(a, mark, stream);
    case Pattern::cl100k:
      return mark_pieces<Pattern::cl100k>(a, mark, stream);
    case Pattern::o200k:
      return mark_pieces<Pattern::o200k>(a, mark, stream);
    case Pattern::qwen2:
      return mark_pieces<Pattern::qwen2>(a, mark, stream);
    case Pattern::tekken:
      return mark_pieces<Pattern::tekken>(a, mark, stream);
    default:
      return mark_pieces<Pattern::none>(a, mark, stream);
  }
}

}  // namespace

// Sums of tiles, then a mark a byte.
size_t split_workspace(const SplitArgs& a) { return static_cast<size_t>(prefix_tiles(a.size) * 8 + a.size); }

void split(const SplitArgs& args, const GpuContext& context) {
  SplitArgs a = args;
  if (!a.part) a.part = kSplitPart;
  auto* const sums = static_cast<unsigned long long*>(context.workspace);
  auto* const mark = reinterpret_cast<uint8_t*>(sums + prefix_tiles(a.size));
  if (a.size) mark_pieces(a, mark, context.stream);
  prefix_sums(MarkSource{mark}, EndSink{mark, a.ends}, a.size, sums, reinterpret_cast<unsigned long long*>(a.count),
              context.stream);
}

}  // namespace tk::bpe::gpu
