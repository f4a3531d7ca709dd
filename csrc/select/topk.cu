// SPDX-License-Identifier: Apache-2.0
#include "select/topk.cuh"

namespace tk::selection::gpu {
namespace {

constexpr int64_t kSharedPairs = 8192;  // 64 KB, which every architecture since sm_80 grants a block

int64_t padded(const TopkArgs& a) {
  int64_t size = 2;
  while (size < a.k) size *= 2;
  return size;
}

bool spills(const TopkArgs& a) { return a.sorted && padded(a) > kSharedPairs; }

int64_t joined(const TopkArgs& a) { return a.sorted ? joined_pairs(a.from.rows, a.from.width, a.k) : 0; }

template <class T>
void launch_chunks(const TopkArgs& a, const GpuContext& context) {
  auto* lists = static_cast<uint64_t*>(context.workspace);
  const int64_t chunks = chunks_of_row(a.from.width);
  launch(topk_chunks_kernel<T>, dim3(static_cast<unsigned>(a.from.rows * chunks)), dim3(kThreads), 0, context.stream, a,
         lists, chunks);
  launch(topk_join_kernel<T>, dim3(static_cast<unsigned>(a.from.rows)), dim3(kThreads),
         static_cast<size_t>(joined(a)) * sizeof(uint64_t), context.stream, a, lists, chunks, joined(a));
}

template <class T>
void launch_topk(const TopkArgs& a, const GpuContext& context) {
  if (joined(a) > 0) return launch_chunks<T>(a, context);
  const int64_t longest = a.from.width > padded(a) / 2 ? a.from.width : padded(a) / 2;
  const int64_t threads = longest >= kThreads ? kThreads : longest > 128 ? 256 : 64;
  const size_t shared = a.sorted && !spills(a) ? static_cast<size_t>(padded(a)) * sizeof(uint64_t) : 0;
  launch(topk_kernel<T>, dim3(static_cast<unsigned>(a.from.rows)), dim3(static_cast<unsigned>(threads)), shared,
         context.stream, a, spills(a) ? static_cast<uint64_t*>(context.workspace) : nullptr, padded(a));
}

}  // namespace

size_t topk_workspace(const TopkArgs& a) {
  if (joined(a) > 0) return static_cast<size_t>(a.from.rows * chunks_of_row(a.from.width) * a.k) * sizeof(uint64_t);
  return spills(a) ? static_cast<size_t>(a.from.rows * padded(a)) * sizeof(uint64_t) : 0;
}

void topk(const TopkArgs& a, const GpuContext& context) {
  if (a.k == 0 || a.from.rows == 0) return;
  TK_FLOAT_SWITCH(a.from.dtype, T, launch_topk<T>(a, context))
}

}  // namespace tk::selection::gpu
