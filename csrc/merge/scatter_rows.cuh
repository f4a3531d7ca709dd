// SPDX-License-Identifier: Apache-2.0
// Three launches: clear the winners, let every m bid for its row (an integer minimum, so the order of the bids does not
// matter), then one warp copies one row. Word is the widest type that divides the row and fits its alignment.
#pragma once
#include "core/gpu.cuh"
#include "merge/scatter_rows.h"

namespace tk::merge::gpu {

constexpr int kScatterThreads = 256;
constexpr unsigned long long kNobody = ~0ull;

template <int kThreads>
__global__ void __launch_bounds__(kThreads) clear_winners_kernel(unsigned long long* winner, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) winner[i] = kNobody;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    bid_kernel(const int64_t* index, unsigned long long* winner, int64_t total, int64_t rows, int64_t picks) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t row = index[i];
  if (row < 0 || row >= rows) return;
  atomicMin(&winner[i / picks * rows + row], static_cast<unsigned long long>(i % picks));
}

template <class Word>
struct RowSource {
  const Word* data;  // null: rows of zeros
  int64_t batch_stride, row_stride;
};

template <class Word>
__device__ inline void copy_row(const Word* from, Word* to, int64_t words) {
  for (int64_t c = threadIdx.x % 32; c < words; c += 32) to[c] = from ? from[c] : Word{};
}

template <class Word>
__global__ void __launch_bounds__(kScatterThreads)
    scatter_rows_kernel(RowSource<Word> y, RowSource<Word> base, const unsigned long long* winner, Word* out,
                        int64_t total, int64_t rows, int64_t words) {
  const int64_t i = (int64_t{blockIdx.x} * kScatterThreads + threadIdx.x) / 32;
  if (i >= total) return;
  const unsigned long long m = winner[i];
  const RowSource<Word> source = m == kNobody ? base : y;
  const int64_t row = m == kNobody ? i % rows : static_cast<int64_t>(m);
  const Word* from = source.data ? source.data + i / rows * source.batch_stride + row * source.row_stride : nullptr;
  copy_row(from, out + i * words, words);
}

template <class Word>
__global__ void __launch_bounds__(kScatterThreads)
    gather_winners_kernel(RowSource<Word> grad, const int64_t* index, const unsigned long long* winner, Word* out,
                          int64_t total, int64_t rows, int64_t picks, int64_t words) {
  const int64_t i = (int64_t{blockIdx.x} * kScatterThreads + threadIdx.x) / 32;
  if (i >= total) return;
  const int64_t b = i / picks;
  const int64_t row = index[i];
  const bool valid = row >= 0 && row < rows;
  const bool won = valid && winner[b * rows + row] == static_cast<unsigned long long>(i % picks);
  copy_row(won ? grad.data + b * grad.batch_stride + row * grad.row_stride : nullptr, out + i * words, words);
}

}  // namespace tk::merge::gpu
