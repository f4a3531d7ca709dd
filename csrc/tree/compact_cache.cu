// SPDX-License-Identifier: Apache-2.0
#include "merge/row_words.h"
#include "tree/compact_cache.cuh"

namespace tk::tree::gpu {
namespace {

template <class Word>
void launch_compact(CompactCacheArgs a, void* stream) {
  const auto per_word = static_cast<int64_t>(sizeof(Word) / item_size(a.dtype));
  const int64_t words = a.width / per_word;
  for (int64_t* stride : {&a.layer_stride, &a.page_stride, &a.group_stride, &a.row_stride}) *stride /= per_word;
  const int64_t columns = a.layers * a.batch * a.groups * words;
  const int64_t threads = columns > a.batch ? columns : a.batch;
  const auto blocks = static_cast<unsigned>((threads + kCompactThreads - 1) / kCompactThreads);
  launch(compact_cache_kernel<Word>, dim3(blocks), dim3(kCompactThreads), 0, stream, a, words);
}

}  // namespace

size_t compact_cache_workspace(const CompactCacheArgs&) { return 0; }

void compact_cache(const CompactCacheArgs& a, const GpuContext& context) {
  if (a.batch == 0) return;
  const bool wide = merge::gpu::fits_words(
      {a.cache}, {a.width, a.layer_stride, a.page_stride, a.group_stride, a.row_stride}, a.dtype);
  if (wide) return launch_compact<merge::gpu::Word16>(a, context.stream);
  if (a.dtype == DType::f32) return launch_compact<uint32_t>(a, context.stream);
  launch_compact<uint16_t>(a, context.stream);
}

}  // namespace tk::tree::gpu
