// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "quantize/nearest_rank.h"
#include "quantize/next_code.cuh"

namespace tk::quantize::gpu {

template <class T>
__global__ void __launch_bounds__(kWalkThreads) nearest_rank_kernel(NearestRankArgs a) {
  const int64_t item = int64_t{blockIdx.x} * kWalkThreads + threadIdx.x;
  if (item >= a.search.books * a.search.rows) return;
  const RowWalk<T> walk = row_walk<T>(a.search, item);
  const int64_t book = item / a.search.rows;
  int64_t rank = a.rank[book * a.rank_book_stride + item % a.search.rows];
  rank = rank < 0 ? 0 : rank < a.search.codes_count ? rank : a.search.codes_count - 1;
  NextCode code = walk.after(NextCode{});
  for (int64_t i = 0; i < rank && code.index >= 0; ++i) code = walk.after(code);
  a.index[item] = code.index;
  a.best[item] = walk.reported(code);
}

}  // namespace tk::quantize::gpu
