// SPDX-License-Identifier: Apache-2.0
// A stable sort of keys of two 32-bit halves, with or without 64 bits that go along, byte by byte from the lowest. How
// many keys there are and how many bytes of a half matter is known on the device only: every launch is made for the
// most there can be, and those of bytes that do not matter end at once.
#pragma once
#include "core/gpu.cuh"
#include "core/prefix_sum.cuh"

namespace tk::bpe::gpu {

constexpr int kDigits = 256;
constexpr int kSortThreads = 256;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kSortRounds = 8;
constexpr int kSortTile = kSortThreads * kSortRounds;  // keys that one block places
constexpr int kSortPasses = 8;

struct SortState {
  unsigned long long count;  // of keys
  unsigned all_ids;          // every bit that is set in some half of a key
};

// The bytes that matter of either half; passes go over twice as many, so that the sorted keys end where they began.
__device__ __forceinline__ int half_bytes(const SortState* state) { return (39 - __clz(state->all_ids)) / 8; }

struct KeyBuffers {
  uint64_t* key[2];
  uint64_t* load[2];  // null: nothing goes along
};

// From where to where a pass moves the keys.
struct KeyMove {
  const uint64_t* key;
  const uint64_t* load;
  uint64_t* key_to;
  uint64_t* load_to;
};

// The byte of a pass, or -1 where that pass has nothing to do.
__device__ __forceinline__ int digit_shift(const SortState* state, int pass) {
  const int bytes = half_bytes(state);
  if (pass >= 2 * bytes) return -1;
  return pass < bytes ? 8 * pass : 32 + 8 * (pass - bytes);
}

// counts[digit * tiles + tile]
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    digit_counts_kernel(const uint64_t* keys, const SortState* state, int pass, unsigned* counts) {
  TK_SHARED(own, unsigned[kDigits]);
  const int shift = digit_shift(state, pass);
  if (shift < 0) return;
  own[threadIdx.x] = 0;
  __syncthreads();
  const auto count = static_cast<int64_t>(state->count);
  for (int round = 0; round < kSortRounds; ++round) {
    const int64_t i = int64_t{blockIdx.x} * kSortTile + round * kThreads + threadIdx.x;
    if (i < count) atomicAdd(&own[keys[i] >> shift & 255u], 1u);
  }
  __syncthreads();
  counts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = own[threadIdx.x];
}

struct DigitSource {
  const unsigned* counts;
  const SortState* state;
  int pass;
  __device__ unsigned long long operator()(int64_t i) const { return digit_shift(state, pass) < 0 ? 0 : counts[i]; }
};
struct DigitSink {
  unsigned* places;
  const SortState* state;
  int pass;
  __device__ void operator()(int64_t i, unsigned long long before) const {
    if (digit_shift(state, pass) >= 0) places[i] = static_cast<unsigned>(before);
  }
};

// The lanes of this warp that have the same digit, among those that have one.
__device__ __forceinline__ unsigned lanes_with(unsigned digit, bool valid) {
  unsigned same = __ballot_sync(kAllLanes, valid);
#pragma unroll
  for (int bit = 0; bit < 8; ++bit) {
    const bool set = (digit >> bit & 1u) != 0;
    const unsigned having = __ballot_sync(kAllLanes, set);
    same &= set ? having : ~having;
  }
  return same;
}

// Each warp ranks a stretch of the tile by itself; then the warps are put one after the other.
template <bool kLoaded>
__global__ void __launch_bounds__(kSortThreads)
    place_digits_kernel(KeyMove move, const SortState* state, int pass, const unsigned* places) {
  TK_SHARED(counts, unsigned[kSortWarps][kDigits]);
  const int shift = digit_shift(state, pass);
  if (shift < 0) return;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  for (int w = 0; w < kSortWarps; ++w) counts[w][threadIdx.x] = 0;
  __syncthreads();
  const auto count = static_cast<int64_t>(state->count);
  const int64_t first = int64_t{blockIdx.x} * kSortTile + warp * (32 * kSortRounds) + lane;
  unsigned rank[kSortRounds];
#pragma unroll
  for (int round = 0; round < kSortRounds; ++round) {
    const bool valid = first + round * 32 < count;
    const unsigned digit = valid ? static_cast<unsigned>(move.key[first + round * 32] >> shift) & 255u : 0u;
    const unsigned same = lanes_with(digit, valid);
    const unsigned below = same & ((1u << lane) - 1u);
    const unsigned before = valid ? counts[warp][digit] : 0;
    __syncwarp();
    if (valid && below == 0) counts[warp][digit] = before + __popc(same);
    __syncwarp();
    rank[round] = before + __popc(below);
  }
  __syncthreads();
  unsigned place = places[int64_t{threadIdx.x} * gridDim.x + blockIdx.x];
  for (int w = 0; w < kSortWarps; ++w) {
    const unsigned own = counts[w][threadIdx.x];
    counts[w][threadIdx.x] = place;
    place += own;
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kSortRounds; ++round) {
    if (first + round * 32 >= count) continue;
    const uint64_t key = move.key[first + round * 32];
    const unsigned to = counts[warp][key >> shift & 255u] + rank[round];
    move.key_to[to] = key;
    if constexpr (kLoaded) move.load_to[to] = move.load[first + round * 32];
  }
}

inline int64_t sort_tiles(int64_t most) { return (most + kSortTile - 1) / kSortTile; }

// Sorts buffers.key[0], and load[0] with it. digits: kDigits * sort_tiles(most); sums: prefix_tiles of as many.
inline void sort_keys(const KeyBuffers& buffers, const SortState* state, int64_t most, unsigned* digits,
                      unsigned long long* sums, void* stream) {
  const int64_t tiles = sort_tiles(most);
  const dim3 grid(static_cast<unsigned>(tiles));
  for (int pass = 0; pass < kSortPasses; ++pass) {
    launch(digit_counts_kernel<kSortThreads>, grid, dim3(kSortThreads), 0, stream, buffers.key[pass % 2], state, pass,
           digits);
    prefix_sums(DigitSource{digits, state, pass}, DigitSink{digits, state, pass}, kDigits * tiles, sums,
                static_cast<unsigned long long*>(nullptr), stream);
    const auto place = buffers.load[0] ? place_digits_kernel<true> : place_digits_kernel<false>;
    const int from = pass % 2;
    const KeyMove move{buffers.key[from], buffers.load[from], buffers.key[1 - from], buffers.load[1 - from]};
    launch(place, grid, dim3(kSortThreads), 0, stream, move, state, pass, digits);
  }
}

}  // namespace tk::bpe::gpu
