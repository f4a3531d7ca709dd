// SPDX-License-Identifier: Apache-2.0
#include "merge/gather_rows.cuh"
#include "merge/row_words.h"

namespace tk::merge::gpu {
namespace {

template <class Word>
void launch_gather(const GatherRowsArgs& a, void* stream) {
  const int64_t per_word = static_cast<int64_t>(sizeof(Word) / item_size(a.dtype));
  const int64_t total = a.batch * a.picks;
  const int64_t warps = kGatherThreads / 32;
  launch(gather_rows_kernel<Word>, dim3(static_cast<unsigned>((total + warps - 1) / warps)), dim3(kGatherThreads), 0,
         stream, static_cast<const Word*>(a.x), a.index, static_cast<Word*>(a.out), total, a.tokens, a.picks,
         a.width / per_word, a.x_batch_stride / per_word, a.x_row_stride / per_word);
}

}  // namespace

size_t gather_rows_workspace(const GatherRowsArgs&) { return 0; }

void gather_rows(const GatherRowsArgs& a, const GpuContext& context) {
  if (a.batch * a.picks * a.width == 0) return;
  const bool wide = fits_words({a.x, a.out}, {a.width, a.x_batch_stride, a.x_row_stride}, a.dtype);
  if (wide) return launch_gather<Word16>(a, context.stream);
  if (a.dtype == DType::f32) return launch_gather<uint32_t>(a, context.stream);
  return launch_gather<uint16_t>(a, context.stream);
}

}  // namespace tk::merge::gpu
