// SPDX-License-Identifier: Apache-2.0
// One block a row. The chosen items are written by ascending index, or become (key, index) pairs that a bitonic sort
// puts in order: in shared memory, or in the workspace where they do not fit. Few wide rows are cut into chunks first.
#pragma once
#include "select/chunk_pairs.cuh"
#include "select/topk.h"

namespace tk::selection::gpu {

template <class T>
struct Answer {
  const RowKeys<T>& keys;
  T* value;
  int64_t* index;
  TK_HOST_DEVICE void write(int64_t at, int64_t j) const {
    index[at] = j;
    value[at] = keys.mask && !keys.mask[j] ? from_float<T>(-kInfinity) : keys.score[j];
  }
};

template <class T>
struct WriteChosen {
  Answer<T> answer;
  TK_HOST_DEVICE void operator()(int64_t j, bool chosen, int64_t position) const {
    if (chosen) answer.write(position, j);
  }
};

// `size` is a power of two, at least k. `spill` is null where the pairs fit shared memory.
template <class T>
__global__ void __launch_bounds__(kThreads) topk_kernel(TopkArgs a, uint64_t* spill, int64_t size) {
  TK_DYNAMIC_SHARED(uint64_t, shared_pairs);
  const int64_t row = blockIdx.x;
  const RowKeys<T> keys = row_keys<T>(a.from, row);
  const Answer<T> answer{keys, static_cast<T*>(a.value) + row * a.k, a.index + row * a.k};
  const KeyCut cut = find_key_cut(keys, a.k);
  if (!a.sorted) return walk_items(keys, cut, WriteChosen<T>{answer});
  uint64_t* pairs = spill ? spill + row * size : shared_pairs;
  for (int64_t i = a.k + threadIdx.x; i < size; i += blockDim.x) pairs[i] = ~uint64_t{0};
  walk_items(keys, cut, PairChosen<RowKeys<T>>{keys, pairs});
  __syncthreads();
  sort_pairs(pairs, size);
  for (int64_t i = threadIdx.x; i < a.k; i += blockDim.x) {
    answer.write(i, static_cast<int64_t>(pairs[i] & 0xffffffffu));
  }
}

// Lists of k pairs, (R, chunks, k).
template <class T>
__global__ void __launch_bounds__(kThreads) topk_chunks_kernel(TopkArgs a, uint64_t* lists, int64_t chunks) {
  const int64_t row = blockIdx.x / chunks;
  const int64_t begin = blockIdx.x % chunks * kChunkItems;
  RowKeys<T> keys = row_keys<T>(a.from, row);
  keys.n = keys.n - begin < kChunkItems ? keys.n - begin : kChunkItems;
  keys.score += begin;
  if (keys.mask) keys.mask += begin;
  list_chunk(keys, begin, a.k, lists + int64_t{blockIdx.x} * a.k);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    topk_join_kernel(TopkArgs a, const uint64_t* lists, int64_t chunks, int64_t size) {
  TK_DYNAMIC_SHARED(uint64_t, pairs);
  const int64_t row = blockIdx.x;
  const RowKeys<T> keys = row_keys<T>(a.from, row);
  const Answer<T> answer{keys, static_cast<T*>(a.value) + row * a.k, a.index + row * a.k};
  join_chunks(lists + row * chunks * a.k, chunks * a.k, pairs, size);
  for (int64_t i = threadIdx.x; i < a.k; i += blockDim.x) {
    answer.write(i, static_cast<int64_t>(pairs[i] & 0xffffffffu));
  }
}

}  // namespace tk::selection::gpu
