// SPDX-License-Identifier: Apache-2.0
// The k nearest codes of every row, 32 at a time: a warp keeps the list of a row, one entry a lane, and looks at the
// scores of a tile for those that beat its last. Further passes take what comes after the last of the pass before.
#pragma once
#include "quantize/code_tiles.cuh"
#include "quantize/nearest_topk.h"

namespace tk::quantize::gpu {

constexpr int kListLanes = 32;

// Where the device keeps what lies between its kernels.
struct TopkScratch {
  float* row;         // (Q, N): row_value
  float* column;      // (Q, K): column_value
  BestColumn* bound;  // (Q, N): the last entry of the pass before, where there is one
  BestColumn* parts;  // (splits, Q, N, 32): lists of one range of codes
};

// ---- a list, nearest first, one entry a lane ------------------------------------------------------------------------
__device__ __forceinline__ BestColumn entry_of(const BestColumn& list, int lane) {
  return {__shfl_sync(kAllLanes, list.score, lane), __shfl_sync(kAllLanes, list.index, lane)};
}

// Codes come in ascending order, so the new entry goes behind its equals.
__device__ __forceinline__ void insert_entry(BestColumn& list, const BestColumn& entry, int lane) {
  const int place = __popc(__ballot_sync(kAllLanes, list.score >= entry.score));
  const float score = __shfl_up_sync(kAllLanes, list.score, 1);
  const int index = __shfl_up_sync(kAllLanes, list.index, 1);
  if (lane == place) list = entry;
  if (lane > place) list = BestColumn{score, index};
}

// Every lane offers one code, in ascending order; only the first `count` entries of the list matter.
__device__ __forceinline__ void offer_lanes(BestColumn& list, const BestColumn& offer, int count, int lane) {
  const float last = __shfl_sync(kAllLanes, list.score, count - 1);
  for (unsigned better = __ballot_sync(kAllLanes, offer.score > last); better != 0; better &= better - 1) {
    const BestColumn entry = entry_of(offer, __ffs(better) - 1);
    if (entry.score > __shfl_sync(kAllLanes, list.score, count - 1)) insert_entry(list, entry, lane);
  }
}

// ---- tiles ----------------------------------------------------------------------------------------------------------
template <class Tile>
struct TopkShared {
  TileBuffers<Tile> buffers;
  float scores[kSearchRows][Tile::kScorePitch];
  BestColumn lists[kSearchRows][kListLanes];
  BestColumn bound[kSearchRows];
};

// Takes the products of a tile. A warp looks at rows of its own, so it waits for nobody else.
template <class Tile>
struct ListTile {
  NearnessScore score;
  int64_t columns;
  TopkShared<Tile>& shared;
  int count;

  __device__ __forceinline__ void operator()(int64_t first, Tile& products) {
#pragma unroll
    for (int j = 0; j < Tile::kColumns; ++j) {
      const int64_t column = first + Tile::column(j);
      const float value = column < columns ? score.of[column] : not_a_number();
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
        shared.scores[Tile::row(i)][Tile::column(j)] = score(products.at(i, j), value);
      }
    }
    __syncwarp();
#pragma unroll 1
    for (int n = 0; n < kSearchRows / (kSearchThreads / 32); ++n) offer_row(Tile::warp_row(n), first);
    __syncwarp();
  }

  __device__ __forceinline__ void offer_row(int row, int64_t first) {
    const int lane = threadIdx.x % 32;
    const BestColumn bound = shared.bound[row];
    BestColumn list = shared.lists[row][lane];
#pragma unroll
    for (int half = 0; half < kSearchColumns; half += 32) {
      BestColumn offer{shared.scores[row][half + lane], static_cast<int>(first) + half + lane};
      if (!bound.precedes(offer)) offer.score = -kInfinity;
      offer_lanes(list, offer, count, lane);
    }
    shared.lists[row][lane] = list;
  }
};

// The entries of a list, as slots [slot, slot + count) of a row, and the bound of the next pass.
__device__ __forceinline__ void write_slots(const NearestTopkArgs& a, const TopkScratch& s, int64_t at, int64_t slot,
                                            int count, const BestColumn& list, int lane) {
  const float row = s.row[at];
  const bool found = list.score > -kInfinity && row == row;
  if (lane < count) {
    a.index[at * a.k + slot + lane] = found ? list.index : -1;
    a.best[at * a.k + slot + lane] = found ? reported(a.search.metric, list.score, row) : not_a_number();
  }
  if (lane == count - 1) s.bound[at] = list;
}

template <class T, class Tile, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads, 3)
    nearest_topk_kernel(NearestTopkArgs a, DeviceSearch search, TopkScratch s, int64_t slot, int count) {
  TK_DYNAMIC_SHARED(TopkShared<Tile>, shared);
  const SearchTask task = search_task(search);
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int n = 0; n < kSearchRows / (kSearchThreads / 32); ++n) {
    const int row = Tile::warp_row(n);
    const bool bounded = slot > 0 && task.first_row + row < search.rows;
    shared->lists[row][lane] = BestColumn{};
    if (lane == 0) {
      shared->bound[row] = bounded ? s.bound[task.b * search.rows + task.first_row + row] : BestColumn{kInfinity, -1};
    }
  }
  __syncwarp();
  const NearnessScore score{s.column + task.b * search.columns, a.search.metric};
  ListTile<Tile> lists{score, search.columns, *shared, count};
  walk_tiles<T, T, Tile, kAligned>(search, task, shared->buffers, lists);
#pragma unroll 1
  for (int n = 0; n < kSearchRows / (kSearchThreads / 32); ++n) {
    const int64_t row = task.first_row + Tile::warp_row(n);
    if (row >= search.rows) continue;
    const int64_t at = task.b * search.rows + row;
    const BestColumn list = shared->lists[Tile::warp_row(n)][lane];
    if (search.splits == 1) {
      write_slots(a, s, at, slot, count, list, lane);
    } else {
      s.parts[(task.split * search.batch * search.rows + at) * kListLanes + lane] = list;
    }
  }
}

// Joins the lists of all ranges of codes, in ascending order: one warp a row.
template <class Unused>
__global__ void __launch_bounds__(kNormThreads)
    topk_join_kernel(NearestTopkArgs a, TopkScratch s, int64_t splits, int64_t slot, int count) {
  const int lane = threadIdx.x % 32;
  const int64_t at = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  const int64_t rows = a.search.books * a.search.rows;
  if (at >= rows) return;
  BestColumn list;
  for (int64_t split = 0; split < splits; ++split) {
    offer_lanes(list, s.parts[(split * rows + at) * kListLanes + lane], count, lane);
  }
  write_slots(a, s, at, slot, count, list, lane);
}

}  // namespace tk::quantize::gpu
