// SPDX-License-Identifier: Apache-2.0
#include "tree/sample_without_replacement.cuh"

namespace tk::tree::gpu {
namespace {

constexpr int64_t kSharedPairs = 8192;  // 64 KB, which every architecture since sm_80 grants a block

int64_t race_chunks(const SampleWithoutReplacementArgs& a) { return (a.width + kRaceChunk - 1) / kRaceChunk; }

int64_t padded(const SampleWithoutReplacementArgs& a) {
  int64_t size = 2;
  while (size < a.k) size *= 2;
  return size;
}

int64_t joined(const SampleWithoutReplacementArgs& a) { return selection::gpu::joined_pairs(a.rows, a.width, a.k); }

// Of all rows, in the workspace: those of the lists of chunks, or those that shared memory cannot hold.
int64_t stored_pairs(const SampleWithoutReplacementArgs& a) {
  if (joined(a) > 0) return a.rows * selection::gpu::chunks_of_row(a.width) * a.k;
  return padded(a) > kSharedPairs ? a.rows * padded(a) : 0;
}

RaceState race_state(const SampleWithoutReplacementArgs& a, void* workspace) {
  auto* pairs = static_cast<uint64_t*>(workspace);
  const int64_t stored = stored_pairs(a);
  auto* sums = reinterpret_cast<RaceSums*>(pairs + stored);
  auto* keys = reinterpret_cast<uint32_t*>(sums + a.rows * race_chunks(a));
  const bool lists = joined(a) > 0;
  return {stored > 0 && !lists ? pairs : nullptr, sums, keys, padded(a), race_chunks(a), lists ? pairs : nullptr};
}

template <class T>
void launch_join(const SampleWithoutReplacementArgs& a, const RaceState& s, void* stream) {
  const int64_t chunks = selection::gpu::chunks_of_row(a.width);
  launch(race_chunks_kernel<void>, dim3(static_cast<unsigned>(a.rows * chunks)), dim3(selection::gpu::kThreads), 0,
         stream, a, s, chunks);
  launch(race_join_kernel<T>, dim3(static_cast<unsigned>(a.rows)), dim3(selection::gpu::kThreads),
         static_cast<size_t>(joined(a)) * sizeof(uint64_t), stream, a, s, chunks * a.k, joined(a));
}

template <class T>
void launch_race(const SampleWithoutReplacementArgs& a, const GpuContext& context) {
  const RaceState s = race_state(a, context.workspace);
  const int64_t longest = a.width > s.size / 2 ? a.width : s.size / 2;
  const int threads = longest >= selection::gpu::kThreads ? selection::gpu::kThreads : longest > 128 ? 256 : 64;
  const size_t shared = s.pairs ? 0 : static_cast<size_t>(s.size) * sizeof(uint64_t);
  launch(race_keys_kernel<T>, dim3(static_cast<unsigned>(a.rows * s.chunks)), dim3(kRaceThreads), 0, context.stream, a,
         s);
  if (s.lists) return launch_join<T>(a, s, context.stream);
  launch(race_choose_kernel<T>, dim3(static_cast<unsigned>(a.rows)), dim3(static_cast<unsigned>(threads)), shared,
         context.stream, a, s);
}

}  // namespace

size_t sample_without_replacement_workspace(const SampleWithoutReplacementArgs& a) {
  if (a.k == 0 || a.rows == 0) return 0;
  return static_cast<size_t>(stored_pairs(a)) * sizeof(uint64_t) +
         static_cast<size_t>(a.rows * race_chunks(a)) * sizeof(RaceSums) +
         static_cast<size_t>(a.rows * a.width) * sizeof(uint32_t);
}

void sample_without_replacement(const SampleWithoutReplacementArgs& a, const GpuContext& context) {
  if (a.k == 0 || a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_race<T>(a, context))
}

}  // namespace tk::tree::gpu
