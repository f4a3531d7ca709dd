// SPDX-License-Identifier: Apache-2.0
// Few wide rows: blocks choose the best k of chunks of a row, and one block a row joins the chunks' lists. A list holds
// pairs that sort as the items do, in any order, and behind the last one pairs that sort behind all.
#pragma once
#include "core/sort_pairs.cuh"
#include "select/key_cut.cuh"

namespace tk::selection::gpu {

constexpr int64_t kChunkItems = 8192;
constexpr int64_t kJoinedPairs = 8192;  // of a row, in shared memory
constexpr int64_t kNarrowRows = 264;    // two a multiprocessor of an H100: so many rows fill it, a block each

inline int64_t chunks_of_row(int64_t width) { return (width + kChunkItems - 1) / kChunkItems; }

// How many pairs one block joins: a power of two; or 0 where rows are not cut.
inline int64_t joined_pairs(int64_t rows, int64_t width, int64_t k) {
  const int64_t chunks = chunks_of_row(width);
  if (rows >= kNarrowRows || chunks < 2 || k > kJoinedPairs / chunks) return 0;
  int64_t size = 2;
  while (size < chunks * k) size *= 2;
  return size;
}

template <class Keys>
struct ListChunk {
  const Keys& keys;
  int64_t begin;
  uint64_t* pairs;
  TK_HOST_DEVICE void operator()(int64_t j, bool chosen, int64_t position) const {
    if (chosen) pairs[position] = uint64_t{~keys(j)} << 32 | static_cast<uint64_t>(begin + j);
  }
};

// The best k of the n items of one chunk, which begins at item `begin` of its row.
template <class Keys>
__device__ __forceinline__ void list_chunk(const Keys& keys, int64_t begin, int64_t k, uint64_t* pairs) {
  for (int64_t i = keys.n + threadIdx.x; i < k; i += blockDim.x) pairs[i] = ~uint64_t{0};
  const KeyCut all{0, kAllTies};
  walk_items(keys, keys.n > k ? find_key_cut(keys, k) : all, ListChunk<Keys>{keys, begin, pairs});
}

// Sorts the lists of a row into shared memory.
__device__ __forceinline__ void join_chunks(const uint64_t* lists, int64_t count, uint64_t* pairs, int64_t size) {
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) pairs[i] = i < count ? lists[i] : ~uint64_t{0};
  __syncthreads();
  sort_pairs(pairs, size);
}

}  // namespace tk::selection::gpu
