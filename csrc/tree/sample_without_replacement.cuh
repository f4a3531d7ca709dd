// SPDX-License-Identifier: Apache-2.0
// All blocks make keys and sum the mass of their chunk of a row; then one block a row finds the earliest k keys as topk
// finds them, of few rows by chunks first, sorts these, and sums their mass from the last to the first.
#pragma once
#include "select/chunk_pairs.cuh"
#include "tree/sample_without_replacement.h"

namespace tk::tree::gpu {

constexpr int kRaceThreads = 256;
constexpr int64_t kRaceChunk = 16 * kRaceThreads;

struct RaceSums {
  double mass;
  int64_t items;  // that have mass
};

// Between the launches, in the workspace.
struct RaceState {
  uint64_t* pairs;  // (N, size) or null
  RaceSums* sums;   // (N, chunks)
  uint32_t* keys;   // (N, V)
  int64_t size;     // of a row of pairs: a power of two, at least k
  int64_t chunks;
  uint64_t* lists;  // (N, lists of a row, k) of chunk_pairs.cuh, or null
};

struct RowRaceKeys {
  const uint32_t* key;
  int64_t n;
  TK_HOST_DEVICE uint32_t operator()(int64_t j) const { return key[j]; }
};

__device__ __forceinline__ RaceSums warp_sums(RaceSums own) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    own.mass += __shfl_xor_sync(kAllLanes, own.mass, lanes);
    own.items += __shfl_xor_sync(kAllLanes, own.items, lanes);
  }
  return own;
}

template <class T>
__global__ void __launch_bounds__(kRaceThreads) race_keys_kernel(SampleWithoutReplacementArgs a, RaceState s) {
  TK_SHARED(warps, RaceSums[kRaceThreads / 32]);
  const int64_t row = blockIdx.x / s.chunks;
  const int64_t begin = blockIdx.x % s.chunks * kRaceChunk;
  const int64_t end = begin + kRaceChunk < a.width ? begin + kRaceChunk : a.width;
  const T* q = mass_row<T>(a, row);
  const float* u = a.u + row * a.u_stride;
  RaceSums own{0.0, 0};
  for (int64_t j = begin + threadIdx.x; j < end; j += kRaceThreads) {
    const float mass = to_float(q[j]);
    const uint32_t key = race_key<int32_t, uint32_t>(mass, u[j]);
    s.keys[row * a.width + j] = key;
    own.mass += race_mass(mass);
    own.items += key != 0;
  }
  own = warp_sums(own);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < kRaceThreads / 32; ++w) {
    own.mass += warps[w].mass;
    own.items += warps[w].items;
  }
  s.sums[blockIdx.x] = own;
}

// By one warp: `pairs` are sorted.
template <class T>
__device__ __forceinline__ void write_draws(const SampleWithoutReplacementArgs& a, const RaceState& s, int64_t row,
                                            const uint64_t* pairs) {
  const T* q = mass_row<T>(a, row);
  RaceSums all{0.0, 0};
  for (int64_t c = threadIdx.x; c < s.chunks; c += 32) {
    all.mass += s.sums[row * s.chunks + c].mass;
    all.items += s.sums[row * s.chunks + c].items;
  }
  all = warp_sums(all);
  const int64_t drawn = all.items < a.k ? all.items : a.k;
  RaceSums chosen{0.0, 0};
  for (int64_t i = threadIdx.x; i < drawn; i += 32) chosen.mass += to_float(q[pairs[i] & 0xffffffffu]);
  double left = all.mass - warp_sums(chosen).mass;
  if (all.items == drawn || left < 0.0) left = 0.0;
  for (int64_t first = (a.k - 1) / 32 * 32; first >= 0; first -= 32) {
    const int64_t i = first + threadIdx.x;
    const int64_t index = i < drawn ? static_cast<int64_t>(pairs[i] & 0xffffffffu) : -1;
    const double mass = index < 0 ? 0.0 : to_float(q[index]);
    double from = mass;  // of this draw and those after it in the warp
    for (unsigned step = 1; step < 32; step *= 2) {
      const double after = __shfl_down_sync(kAllLanes, from, step);
      if (threadIdx.x + step < 32) from += after;
    }
    if (i < a.k) {
      a.index[row * a.k + i] = index;
      a.prob[row * a.k + i] = index < 0 ? 0.0f : draw_share(mass, left + from);
    }
    left += __shfl_sync(kAllLanes, from, 0);
  }
}

template <class Unused>
__global__ void __launch_bounds__(selection::gpu::kThreads)
    race_chunks_kernel(SampleWithoutReplacementArgs a, RaceState s, int64_t chunks) {
  constexpr int64_t kItems = selection::gpu::kChunkItems;
  const int64_t begin = blockIdx.x % chunks * kItems;
  const RowRaceKeys keys{s.keys + blockIdx.x / chunks * a.width + begin,
                         a.width - begin < kItems ? a.width - begin : kItems};
  selection::gpu::list_chunk(keys, begin, a.k, s.lists + int64_t{blockIdx.x} * a.k);
}

template <class T>
__global__ void __launch_bounds__(selection::gpu::kThreads)
    race_join_kernel(SampleWithoutReplacementArgs a, RaceState s, int64_t count, int64_t size) {
  TK_DYNAMIC_SHARED(uint64_t, pairs);
  selection::gpu::join_chunks(s.lists + int64_t{blockIdx.x} * count, count, pairs, size);
  if (threadIdx.x < 32) write_draws<T>(a, s, blockIdx.x, pairs);
}

template <class T>
__global__ void __launch_bounds__(selection::gpu::kThreads, 2)
    race_choose_kernel(SampleWithoutReplacementArgs a, RaceState s) {
  TK_DYNAMIC_SHARED(uint64_t, shared_pairs);
  const int64_t row = blockIdx.x;
  const RowRaceKeys keys{s.keys + row * a.width, a.width};
  const selection::KeyCut cut = selection::gpu::find_key_cut(keys, a.k);
  uint64_t* pairs = s.pairs ? s.pairs + row * s.size : shared_pairs;
  for (int64_t i = a.k + threadIdx.x; i < s.size; i += blockDim.x) pairs[i] = ~uint64_t{0};
  selection::gpu::walk_items(keys, cut, selection::gpu::PairChosen<RowRaceKeys>{keys, pairs});
  __syncthreads();
  sort_pairs(pairs, s.size);
  if (threadIdx.x < 32) write_draws<T>(a, s, row, pairs);
}

}  // namespace tk::tree::gpu
