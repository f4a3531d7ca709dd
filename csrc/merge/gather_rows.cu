// SPDX-License-Identifier: Apache-2.0
#include "merge/gather_rows.cuh"

namespace tk::merge::gpu {
namespace {

struct alignas(16) Word16 {
  uint32_t part[4];
};

template <class Word>
void launch_gather(const GatherRowsArgs& a, void* stream) {
  const int64_t per_word = static_cast<int64_t>(sizeof(Word) / item_size(a.dtype));
  const int64_t total = a.batch * a.picks;
  const int64_t warps = kGatherThreads / 32;
  launch(gather_rows_kernel<Word>, dim3(static_cast<unsigned>((total + warps - 1) / warps)), dim3(kGatherThreads), 0,
         stream, static_cast<const Word*>(a.x), a.index, static_cast<Word*>(a.out), total, a.tokens, a.picks,
         a.width / per_word, a.x_batch_stride / per_word, a.x_row_stride / per_word);
}

bool wide_rows(const GatherRowsArgs& a) {
  const auto item = static_cast<int64_t>(item_size(a.dtype));
  const auto addresses = reinterpret_cast<uintptr_t>(a.x) | reinterpret_cast<uintptr_t>(a.out);
  const int64_t extents = a.width * item | a.x_batch_stride * item | a.x_row_stride * item;
  return (addresses | static_cast<uintptr_t>(extents)) % sizeof(Word16) == 0;
}

}  // namespace

size_t gather_rows_workspace(const GatherRowsArgs&) { return 0; }

void gather_rows(const GatherRowsArgs& a, const GpuContext& context) {
  if (a.batch * a.picks * a.width == 0) return;
  if (wide_rows(a)) return launch_gather<Word16>(a, context.stream);
  if (a.dtype == DType::f32) return launch_gather<uint32_t>(a, context.stream);
  return launch_gather<uint16_t>(a, context.stream);
}

}  // namespace tk::merge::gpu
