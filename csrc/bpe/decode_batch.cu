// SPDX-License-Identifier: Apache-2.0
#include "bpe/decode_batch.cuh"

namespace tk::bpe::gpu {
namespace {

dim3 decode_blocks(int64_t items) { return dim3(static_cast<unsigned>((items + kDecodeThreads - 1) / kDecodeThreads)); }

}  // namespace

size_t decode_places_workspace(const DecodePlacesArgs& a) {
  return static_cast<size_t>(prefix_tiles(a.tokens) + 1) * sizeof(unsigned long long);
}

void decode_places(const DecodePlacesArgs& a, const GpuContext& context) {
  auto* const total = static_cast<unsigned long long*>(context.workspace);
  unsigned long long* const sums = total + 1;
  if (a.dtype == DType::i32) {
    prefix_sums(LengthSource<int32_t>{a}, PlaceSink{a}, a.tokens, sums, total, context.stream);
  } else {
    prefix_sums(LengthSource<int64_t>{a}, PlaceSink{a}, a.tokens, sums, total, context.stream);
  }
  launch(decode_starts_kernel<kDecodeThreads>, decode_blocks(a.batch + 1), dim3(kDecodeThreads), 0, context.stream, a,
         total);
}

size_t decode_batch_workspace(const DecodeBatchArgs&) { return 0; }

void decode_batch(const DecodeBatchArgs& a, const GpuContext& context) {
  if (a.tokens == 0 || a.size == 0) return;
  launch(a.dtype == DType::i32 ? copy_bytes_kernel<int32_t> : copy_bytes_kernel<int64_t>, decode_blocks(a.tokens),
         dim3(kDecodeThreads), 0, context.stream, a);
}

}  // namespace tk::bpe::gpu
