// SPDX-License-Identifier: Apache-2.0
// A group of lanes, just enough for the words of a row and at most a warp, copies one row. Word is the widest type that
// divides the row and fits its alignment.
#pragma once
#include "cluster/permute_rows.h"
#include "core/gpu.cuh"

namespace tk::cluster::gpu {

constexpr int kPermuteThreads = 256;

// Rows of the source in units of Word.
template <class Word>
struct RowMoves {
  const Word* x;
  const int64_t* perm;
  Word* out;
  int64_t heads, tokens, words;
  int64_t batch_stride, head_stride, row_stride;
};

// A row has 2^log_lanes lanes.
template <class Word, bool kInverse>
__global__ void __launch_bounds__(kPermuteThreads) permute_rows_kernel(RowMoves<Word> a, int64_t total, int log_lanes) {
  const int64_t thread = int64_t{blockIdx.x} * kPermuteThreads + threadIdx.x;
  const int64_t i = thread >> log_lanes;
  if (i >= total) return;
  const int64_t group = i / a.tokens;
  const int64_t n = i % a.tokens;
  const int64_t row = a.perm[i];
  const bool valid = row >= 0 && row < a.tokens;
  if (kInverse && !valid) return;
  const Word* x = a.x + group / a.heads * a.batch_stride + group % a.heads * a.head_stride;
  const Word* from = x + (kInverse ? n : row) * a.row_stride;
  Word* to = a.out + (group * a.tokens + (kInverse ? row : n)) * a.words;
  const int lanes = 1 << log_lanes;
  for (int64_t c = thread & (lanes - 1); c < a.words; c += lanes) to[c] = valid ? from[c] : Word{};
}

}  // namespace tk::cluster::gpu
