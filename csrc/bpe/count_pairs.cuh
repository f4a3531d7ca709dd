// SPDX-License-Identifier: Apache-2.0
// Pairs are written as keys without gaps, sorted, and counted as runs: what an occurrence counts goes along with its
// key, and a run counts the difference of two prefix sums.
#pragma once
#include "bpe/count_pairs.h"
#include "bpe/pair_key.h"
#include "bpe/sort_keys.cuh"
#include "core/segment_at.h"

namespace tk::bpe::gpu {

constexpr int kPairThreads = 256;

// What the op needs in the workspace; see count_pairs_workspace.
struct PairSpace {
  SortState* state;
  uint8_t* last;               // (N) whether the id is the last one of its sequence
  KeyBuffers keys;             // (N) each
  unsigned* digits;            // (kDigits * sort_tiles(N))
  unsigned long long* sums;    // of tiles
  unsigned long long* starts;  // (N) where each run begins
  unsigned long long* mass;    // (N + 1) what occurrences before each count; null without weights
};

template <class Id>
__device__ __forceinline__ int64_t pair_id(const CountPairsArgs& a, int64_t n) {
  return static_cast<const Id*>(a.ids)[n];
}

__device__ __forceinline__ bool is_id(int64_t id) { return static_cast<uint64_t>(id) < uint64_t{1} << 31; }

template <int kThreads>
__global__ void __launch_bounds__(kThreads) clear_pairs_kernel(PairSpace space, int64_t tokens) {
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n < tokens) space.last[n] = 0;
  if (n == 0) {
    space.state->count = 0;
    space.state->all_ids = 0;
  }
}

// Of empty sequences the one before has ended already.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) mark_last_kernel(CountPairsArgs a, PairSpace space) {
  const int64_t b = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (b >= a.batch) return;
  const int64_t end = a.offsets[b + 1];
  if (end > a.offsets[b] && end <= a.tokens && a.offsets[b] >= 0) space.last[end - 1] = 1;
}

template <class Id>
struct PairSource {
  CountPairsArgs a;
  PairSpace space;
  __device__ unsigned long long operator()(int64_t n) const {
    const bool pair = n + 1 < a.tokens && !space.last[n];
    return pair && is_id(pair_id<Id>(a, n)) && is_id(pair_id<Id>(a, n + 1));
  }
};

template <class Id>
struct PairSink {
  PairSource<Id> source;
  __device__ void operator()(int64_t n, unsigned long long before) const {
    if (!source(n)) return;
    const CountPairsArgs& a = source.a;
    source.space.keys.key[0][before] = pair_key(pair_id<Id>(a, n), pair_id<Id>(a, n + 1));
    if (a.weights) {
      const int64_t b = segment_at(a.offsets, a.batch, n);
      source.space.keys.load[0][before] = static_cast<uint64_t>(b < a.batch ? a.weights[b] : 0);
    }
  }
};

// Which bits are set in some id.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) join_ids_kernel(PairSpace space) {
  const auto count = static_cast<int64_t>(space.state->count);
  unsigned all = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += int64_t{gridDim.x} * kThreads) {
    const uint64_t key = space.keys.key[0][i];
    all |= static_cast<unsigned>(key) | static_cast<unsigned>(key >> 32);
  }
  for (int step = 16; step > 0; step /= 2) all |= __shfl_xor_sync(kAllLanes, all, step);
  if (threadIdx.x % 32 == 0 && all) atomicOr(&space.state->all_ids, all);
}

struct MassSource {
  PairSpace space;
  __device__ unsigned long long operator()(int64_t i) const {
    return i < static_cast<int64_t>(space.state->count) ? space.keys.load[0][i] : 0;
  }
};
struct MassSink {
  PairSpace space;
  __device__ void operator()(int64_t i, unsigned long long before) const { space.mass[i] = before; }
};

struct RunSource {
  PairSpace space;
  __device__ unsigned long long operator()(int64_t i) const {
    if (i >= static_cast<int64_t>(space.state->count)) return 0;
    return i == 0 || space.keys.key[0][i] != space.keys.key[0][i - 1];
  }
};
struct RunSink {
  CountPairsArgs a;
  PairSpace space;
  __device__ void operator()(int64_t i, unsigned long long before) const {
    if (!RunSource{space}(i)) return;
    const uint64_t key = space.keys.key[0][i];
    a.pairs[2 * before] = static_cast<int64_t>(key >> 32);
    a.pairs[2 * before + 1] = static_cast<int64_t>(key & 0xffffffffu);
    space.starts[before] = static_cast<unsigned long long>(i);
  }
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads) count_runs_kernel(CountPairsArgs a, PairSpace space) {
  const int64_t run = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (run >= a.total[0]) return;
  const unsigned long long start = space.starts[run];
  const unsigned long long end = run + 1 < a.total[0] ? space.starts[run + 1] : space.state->count;
  a.counts[run] = static_cast<int64_t>(space.mass ? space.mass[end] - space.mass[start] : end - start);
}

}  // namespace tk::bpe::gpu
