// SPDX-License-Identifier: Apache-2.0
// The code of a given rank by radix selection, products computed again for every digit: four passes count the scores of
// a row by eight bits of their key (core/score_key.h), the nearest first, each among those that share the digits chosen
// before; a fifth finds the code among equals. Counts are integers, so any order of adding gives the same.
#pragma once
#include "core/score_key.h"
#include "quantize/code_tiles.cuh"
#include "quantize/nearest_rank.h"

namespace tk::quantize::gpu {

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kCountPitch = kDigits + 1;  // rows with the same digit meet different banks
constexpr int64_t kMostRankRows = 16384;  // at a time: what bounds the workspace

// Where the search of a row stands.
struct RankState {
  uint32_t key;   // the digits chosen, zeros behind them
  int left;       // rank among the codes whose keys begin so; at last among those of one range
  int64_t split;  // the range with the code; -1 where there is no such code
};

struct RankScratch {
  float* row;        // (Q, N): row_value
  float* column;     // (Q, K): column_value
  RankState* state;  // (Q, N)
  int* counts;       // (splits, Q, N, kDigits)
};

// Smaller keys are nearer; the largest one is a code that may not be chosen.
TK_INLINE uint32_t rank_key(float score) { return ~score_key(score); }
TK_INLINE bool is_number(float score) { return score == score; }

TK_INLINE float score_of_key(uint32_t rank) {
  const uint32_t key = ~rank;
  const uint32_t bits = key < 0x80000000u ? 0x80000000u | (0x80000000u - key) : key - 0x80000000u;
  return detail::bit_cast<float>(bits);
}

// Whether a key begins with the digits above `shift + kDigitBits`.
TK_INLINE bool shares_digits(uint32_t key, uint32_t chosen, int shift) {
  return static_cast<uint64_t>(key ^ chosen) >> (shift + kDigitBits) == 0;
}

// ---- counting -------------------------------------------------------------------------------------------------------
template <class Tile>
struct RankShared {
  TileBuffers<Tile> buffers;
  int counts[kSearchRows][kCountPitch];
  uint32_t key[kSearchRows];
};

template <class Tile>
struct CountTile {
  NearnessScore score;
  int64_t columns;
  RankShared<Tile>& shared;
  int shift;

  __device__ __forceinline__ void operator()(int64_t first, Tile& products) {
#pragma unroll
    for (int j = 0; j < Tile::kColumns; ++j) {
      const int64_t column = first + Tile::column(j);
      const float value = column < columns ? score.of[column] : not_a_number();
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
        const float s = score(products.at(i, j), value);
        const uint32_t key = rank_key(s);
        if (!is_number(s) || !shares_digits(key, shared.key[Tile::row(i)], shift)) continue;
        atomicAdd(&shared.counts[Tile::row(i)][key >> shift & (kDigits - 1)], 1);
      }
    }
  }
};

template <class T, class Tile, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads)
    rank_count_kernel(Metric metric, DeviceSearch search, RankScratch s, int shift) {
  TK_DYNAMIC_SHARED(RankShared<Tile>, shared);
  const SearchTask task = search_task(search);
  const int64_t first = task.b * search.rows + task.first_row;
  for (int i = threadIdx.x; i < kSearchRows * kCountPitch; i += kSearchThreads) {
    shared->counts[i / kCountPitch][i % kCountPitch] = 0;
  }
  if (threadIdx.x < kSearchRows) {
    const bool valid = task.first_row + threadIdx.x < search.rows;
    shared->key[threadIdx.x] = valid ? s.state[first + threadIdx.x].key : 0;
  }
  __syncthreads();
  CountTile<Tile> counts{{s.column + task.b * search.columns, metric}, search.columns, *shared, shift};
  walk_tiles<T, T, Tile, kAligned>(search, task, shared->buffers, counts);
  __syncthreads();
  int* out = s.counts + (task.split * search.batch * search.rows + first) * kDigits;
  for (int i = threadIdx.x; i < kSearchRows * kDigits; i += kSearchThreads) {
    if (task.first_row + i / kDigits < search.rows) out[i] = shared->counts[i / kDigits][i % kDigits];
  }
}

// ---- choosing a digit: one warp a row, 8 digits a lane --------------------------------------------------------------
template <class Unused>
__global__ void __launch_bounds__(kNormThreads) rank_start_kernel(NearestRankArgs a, RankScratch s) {
  const int64_t at = int64_t{blockIdx.x} * kNormThreads + threadIdx.x;
  if (at >= a.search.books * a.search.rows) return;
  const int64_t rank = a.rank[at / a.search.rows * a.rank_book_stride + at % a.search.rows];
  const int64_t last = a.search.codes_count - 1;
  s.state[at] = RankState{0, static_cast<int>(rank < 0 ? 0 : rank < last ? rank : last), 0};
}

// Goes over ranges of codes to the one that holds the code of rank `left` among those with the digit.
__device__ __forceinline__ RankState in_its_split(const RankScratch& s, int64_t splits, int64_t rows, int64_t at,
                                                  RankState state) {
  for (state.split = 0; state.split < splits; ++state.split) {
    const int count = s.counts[(state.split * rows + at) * kDigits + (state.key & (kDigits - 1))];
    if (state.left < count) return state;
    state.left -= count;
  }
  return state;
}

template <class Unused>
__global__ void __launch_bounds__(kNormThreads)
    rank_digit_kernel(RankScratch s, int64_t rows, int64_t splits, int shift) {
  constexpr int kLaneDigits = kDigits / 32;
  const int lane = threadIdx.x % 32;
  const int64_t at = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  if (at >= rows) return;
  RankState state = s.state[at];
  __syncwarp();  // all have read what one of them will write
  int counts[kLaneDigits] = {};
  for (int64_t split = 0; split < splits; ++split) {
    const int* of = s.counts + (split * rows + at) * kDigits + lane * kLaneDigits;
#pragma unroll
    for (int d = 0; d < kLaneDigits; ++d) counts[d] += of[d];
  }
  int own = 0;
#pragma unroll
  for (int d = 0; d < kLaneDigits; ++d) own += counts[d];
  int until = own;  // codes up to this lane's last digit
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(kAllLanes, until, step);
    if (lane >= step) until += before;
  }
  const unsigned beyond = __ballot_sync(kAllLanes, state.left < until);
  if (beyond == 0) {  // not so many codes
    if (lane == 0) s.state[at].split = -1;
    return;
  }
  if (lane != __ffs(beyond) - 1 || state.split < 0) return;
  state.left -= until - own;
  int digit = 0;
#pragma unroll
  for (int d = 0; d < kLaneDigits - 1; ++d) {
    if (digit == d && state.left >= counts[d]) {
      state.left -= counts[d];
      digit = d + 1;
    }
  }
  state.key |= static_cast<uint32_t>(lane * kLaneDigits + digit) << shift;
  s.state[at] = shift == 0 ? in_its_split(s, splits, rows, at, state) : state;
}

// ---- the code among its equals --------------------------------------------------------------------------------------
template <class Tile>
struct FindShared {
  TileBuffers<Tile> buffers;
  float scores[kSearchRows][Tile::kScorePitch];
  uint32_t key[kSearchRows];
  int left[kSearchRows];  // equals still to pass; negative: found, or not here
  int index[kSearchRows];
};

template <class Tile>
struct FindTile {
  NearnessScore score;
  int64_t columns;
  FindShared<Tile>& shared;

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
    for (int n = 0; n < kSearchRows / (kSearchThreads / 32); ++n) look_at(Tile::warp_row(n), static_cast<int>(first));
    __syncwarp();
  }

  __device__ __forceinline__ void look_at(int row, int first) {
    const int lane = threadIdx.x % 32;
    int left = shared.left[row];
    if (left < 0) return;
    int index = -1;
#pragma unroll
    for (int half = 0; half < kSearchColumns; half += 32) {
      const float s = shared.scores[row][half + lane];
      unsigned equals = __ballot_sync(kAllLanes, is_number(s) && rank_key(s) == shared.key[row]);
      for (; equals != 0 && left >= 0; equals &= equals - 1) {
        if (left-- == 0) index = first + half + __ffs(equals) - 1;
      }
    }
    __syncwarp();  // all have read `left`
    if (lane == 0) {
      shared.left[row] = left;
      if (left < 0) shared.index[row] = index;
    }
    __syncwarp();
  }
};

template <class T, class Tile, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads)
    rank_find_kernel(NearestRankArgs a, DeviceSearch search, RankScratch s) {
  TK_DYNAMIC_SHARED(FindShared<Tile>, shared);
  const SearchTask task = search_task(search);
  const int64_t at = task.b * search.rows + task.first_row + threadIdx.x;
  const bool valid = threadIdx.x < kSearchRows && task.first_row + threadIdx.x < search.rows;
  const RankState state = valid ? s.state[at] : RankState{0, 0, -1};
  if (threadIdx.x < kSearchRows) {
    shared->key[threadIdx.x] = state.key;
    shared->left[threadIdx.x] = state.split == task.split ? state.left : -1;
    shared->index[threadIdx.x] = -1;
  }
  __syncthreads();
  FindTile<Tile> find{{s.column + task.b * search.columns, a.search.metric}, search.columns, *shared};
  walk_tiles<T, T, Tile, kAligned>(search, task, shared->buffers, find);
  __syncthreads();
  if (!valid || (state.split < 0 ? task.split != 0 : task.split != state.split)) return;
  const float row = s.row[at];
  const bool found = state.split >= 0 && row == row;
  a.index[at] = found ? shared->index[threadIdx.x] : -1;
  a.best[at] = found ? reported(a.search.metric, score_of_key(state.key), row) : not_a_number();
}

}  // namespace tk::quantize::gpu
