// SPDX-License-Identifier: Apache-2.0
// For every row its best column, or its best two, by the tiles of core/column_tiles.cuh: every thread carries the best
// of its rows along. A pair's score is score(product, column), NaN where the column may not be chosen.
#pragma once
#include "core/column_tiles.cuh"
#include "core/nearness.cuh"

namespace tk {

struct BestColumn {
  float score = -kInfinity;
  int index = -1;

  // Columns come in ascending order within a thread; false for a NaN.
  TK_HOST_DEVICE void offer(float s, int column) {
    if (s > score) {
      score = s;
      index = column;
    }
  }

  // The lower column wins a tie.
  TK_HOST_DEVICE bool precedes(const BestColumn& other) const {
    return score > other.score || (score == other.score && index < other.index);
  }

  TK_HOST_DEVICE void join(const BestColumn& other) {
    if (other.precedes(*this)) *this = other;
  }

  __device__ __forceinline__ BestColumn of_lane(int step) const {
    return {__shfl_xor_sync(kAllLanes, score, step), __shfl_xor_sync(kAllLanes, index, step)};
  }
};

struct BestTwo {
  BestColumn first, second;

  TK_HOST_DEVICE void offer(float s, int column) {
    if (s > first.score) {
      second = first;
      first = BestColumn{s, column};
    } else {
      second.offer(s, column);
    }
  }

  TK_HOST_DEVICE void join(const BestTwo& other) {
    if (other.first.precedes(first)) {
      second = first;
      first = other.first;
      second.join(other.second);
    } else {
      second.join(other.first);
    }
  }

  __device__ __forceinline__ BestTwo of_lane(int step) const { return {first.of_lane(step), second.of_lane(step)}; }
};

// kLanes neighbours share a row.
template <int kLanes, class Best>
__device__ __forceinline__ Best join_lanes(Best best) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) best.join(best.of_lane(step));
  return best;
}

// Takes the products of a tile: every column is offered to the thread's rows, in ascending order.
template <class Tile, class Best, class Score>
struct OfferTile {
  const Score& score;
  int64_t columns;
  Best best[Tile::kRows];

  __device__ __forceinline__ void operator()(int64_t first, Tile& products) {
#pragma unroll
    for (int j = 0; j < Tile::kColumns; ++j) {
      const int64_t column = first + Tile::column(j);
      const float value = column < columns ? score.of[column] : not_a_number();
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
        best[i].offer(score(products.at(i, j), value), static_cast<int>(column));
      }
    }
  }
};

// Calls finish(row in the tile, best) once for every row of the tile.
template <class Best, class X, class Y, class Tile, bool kAligned, class Score, class Finish>
__device__ __forceinline__ void search_tile(const DeviceSearch& s, const SearchTask& task, const Score& score,
                                            TileBuffers<Tile>& buffers, const Finish& finish) {
  OfferTile<Tile, Best, Score> offers{score, s.columns, {}};
  walk_tiles<X, Y, Tile, kAligned>(s, task, buffers, offers);
#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i) {
    const Best row = join_lanes<Tile::kLanes>(offers.best[i]);
    if (threadIdx.x % Tile::kLanes == 0) finish(Tile::row(i), row);
  }
}

}  // namespace tk
