// SPDX-License-Identifier: Apache-2.0
#include "tree/gumbel_argmax.cuh"

namespace tk::tree::gpu {
namespace {

constexpr int64_t kManyRows = 264;  // two a multiprocessor of an H100: so many fill it, a block each

int64_t chunks_of(const GumbelArgmaxArgs& a) {
  return a.rows >= kManyRows || a.width <= kGumbelChunk ? 1 : (a.width + kGumbelChunk - 1) / kGumbelChunk;
}

template <class T>
void launch_gumbel_argmax(const GumbelArgmaxArgs& a, const GpuContext& context) {
  const int64_t chunks = chunks_of(a);
  auto* parts = chunks > 1 ? static_cast<Candidate*>(context.workspace) : nullptr;
  const int threads = a.width >= 4 * kGumbelThreads ? kGumbelThreads : a.width > 256 ? 128 : 32;
  launch(gumbel_argmax_kernel<T>, dim3(static_cast<unsigned>(a.rows * chunks)), dim3(static_cast<unsigned>(threads)), 0,
         context.stream, a, parts, chunks, chunks > 1 ? kGumbelChunk : a.width);
  if (!parts) return;
  constexpr int64_t kWarps = kGumbelThreads / 32;
  launch(gumbel_join_kernel<void>, dim3(static_cast<unsigned>((a.rows + kWarps - 1) / kWarps)), dim3(kGumbelThreads), 0,
         context.stream, a, static_cast<const Candidate*>(parts), chunks);
}

}  // namespace

size_t gumbel_argmax_workspace(const GumbelArgmaxArgs& a) {
  const int64_t chunks = chunks_of(a);
  return chunks > 1 ? static_cast<size_t>(a.rows * chunks) * sizeof(Candidate) : 0;
}

void gumbel_argmax(const GumbelArgmaxArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_gumbel_argmax<T>(a, context))
}

}  // namespace tk::tree::gpu
