// SPDX-License-Identifier: Apache-2.0
// Every pick is one launch: a warp keeps 8 rows in shared memory, a chunk of their elements at a time, brings their
// scores up to date with the newest pick, and offers its best one to the next. An offer is an integer of score and
// index, so the largest does not depend on the order in which they come.
//
// The sum of one pair is one chain in ascending d, in the passes as in the tiles of the first pick.
#pragma once
#include "core/gpu.cuh"
#include "core/spread_rows.cuh"
#include "select/farthest_points.h"
#include "select/score_rows.h"

namespace tk::selection::gpu {

constexpr int kNormThreads = 256;
constexpr int kPassThreads = 128;
constexpr int kPassWarps = kPassThreads / 32;
constexpr int kPassWarpRows = 8;  // few, so that many warps read: the sums of a pass are chains, a row a lane
constexpr int kPassRows = kPassWarps * kPassWarpRows;
constexpr int kPassDepth = 128;
constexpr int kFirstRows = kPassThreads;  // a row a thread
constexpr int kTile = 64;                 // rows and columns of a tile of the search
constexpr int kTileThreads = 128;
constexpr int kTileDepth = 16;
constexpr int kTilePitch = kTileDepth + 4;  // float4 reads of 8 neighbouring rows meet all banks
constexpr int kThreadRows = 8;
constexpr int kThreadColumns = 4;
constexpr int kLaneColumns = kTile / kThreadColumns;  // threads that share a row
constexpr int kLaneRows = kTile / kThreadRows;

// What lies between the kernels.
struct FarthestScratch {
  float* scale;                // (B, N): what the elements of a row are multiplied by; NaN where it is not finite
  float* score;                // (B, N)
  float* nearest;              // (B, N): distance to the nearest other item; or null
  unsigned long long* offers;  // (B, k): the best item of every step, as score key and complement of the index
  uint8_t* picked;             // (B, N)
};

TK_INLINE float not_a_number() { return detail::bit_cast<float>(uint32_t{0x7fc00000u}); }

template <class T>
TK_INLINE const T* row_of(const FarthestPointsArgs& a, int64_t b, int64_t j) {
  return static_cast<const T*>(a.x) + b * a.x_batch_stride + j * a.x_row_stride;
}

TK_INLINE bool is_masked(const FarthestPointsArgs& a, int64_t item) { return a.mask && !a.mask[item]; }

// One more pair of elements.
template <Metric kMetric>
TK_INLINE float add_pair(float x, float y, float sum) {
  if (kMetric == Metric::cosine) return fmaf(x, y, sum);
  return fmaf(x - y, x - y, sum);
}

// The distance; for l2 its square.
template <Metric kMetric>
TK_INLINE float gap_of(float sum) {
  return kMetric == Metric::cosine ? fmaxf(1.0f - sum, 0.0f) : sum;
}

// ---- norms: one warp a row ------------------------------------------------------------------------------------------
template <class T>
__global__ void __launch_bounds__(kNormThreads) farthest_norms_kernel(FarthestPointsArgs a, FarthestScratch s) {
  const int lane = threadIdx.x % 32;
  const int64_t item = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  if (item >= a.batch * a.rows) return;
  const T* x = row_of<T>(a, item / a.rows, item % a.rows);
  float squares = 0;
  for (int64_t d = lane; d < a.width; d += 32) squares = fmaf(to_float(x[d]), to_float(x[d]), squares);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(kAllLanes, squares, step);
  if (lane != 0) return;
  const bool finite = squares < kInfinity;
  const float inverse = squares == 0 ? 0.0f : 1.0f / sqrtf(squares);
  s.scale[item] = !finite ? not_a_number() : a.metric == Metric::cosine ? inverse : 1.0f;
  s.score[item] = !finite ? not_a_number() : a.mode == Spread::maxmin ? kInfinity : 0.0f;
  s.picked[item] = 0;
  if (s.nearest) s.nearest[item] = finite ? kInfinity : not_a_number();
  if (item % a.rows < a.picks) s.offers[item / a.rows * a.picks + item % a.rows] = 0;
}

// ---- offers ---------------------------------------------------------------------------------------------------------
TK_INLINE unsigned long long offer_of(float score, bool masked, int64_t j) {
  const uint32_t key = masked ? kMaskedKey : score_key(score);
  return static_cast<unsigned long long>(key) << 32 | (~static_cast<uint32_t>(j));
}

TK_INLINE int64_t item_of(unsigned long long offer) { return static_cast<uint32_t>(~offer); }

// The best of a warp's offers; 0 is none.
__device__ __forceinline__ void offer_warp(unsigned long long offer, unsigned long long* best) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, offer, step);
    offer = other > offer ? other : offer;
  }
  if (threadIdx.x % 32 == 0 && offer > 0) atomicMax(best, offer);
}

// ---- the first pick: the distance of every row to its nearest other -------------------------------------------------
// 64 rows of one sample from element `depth` on, scaled; zeros where rows or elements end.
template <class T>
__device__ __forceinline__ void load_scaled(float* tile, const FarthestPointsArgs& a, const float* scale, int64_t b,
                                            int64_t first, int64_t depth) {
  for (int i = threadIdx.x; i < kTile * kTileDepth; i += kTileThreads) {
    const int row = spread_row(i / kTileDepth);
    const int64_t j = first + row;
    const int64_t d = depth + i % kTileDepth;
    const bool valid = j < a.rows && d < a.width;
    tile[row * kTilePitch + i % kTileDepth] = valid ? to_float(row_of<T>(a, b, j)[d]) * scale[b * a.rows + j] : 0.0f;
  }
}

template <Metric kMetric>
__device__ __forceinline__ void add_tile(const float* rows, const float* columns,
                                         float (&sum)[kThreadRows][kThreadColumns]) {
  const int tx = threadIdx.x % kLaneColumns;
  const int ty = threadIdx.x / kLaneColumns;
#pragma unroll
  for (int d = 0; d < kTileDepth; d += 4) {
    float4 y[kThreadColumns];
#pragma unroll
    for (int j = 0; j < kThreadColumns; ++j) {
      y[j] = *reinterpret_cast<const float4*>(columns + (tx + kLaneColumns * j) * kTilePitch + d);
    }
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const float4 x = *reinterpret_cast<const float4*>(rows + (ty + kLaneRows * i) * kTilePitch + d);
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        sum[i][j] = add_pair<kMetric>(x.x, y[j].x, sum[i][j]);
        sum[i][j] = add_pair<kMetric>(x.y, y[j].y, sum[i][j]);
        sum[i][j] = add_pair<kMetric>(x.z, y[j].z, sum[i][j]);
        sum[i][j] = add_pair<kMetric>(x.w, y[j].w, sum[i][j]);
      }
    }
  }
}

// Distances are not negative, so their bits order them as integers.
__device__ __forceinline__ void lower(float* to, float value) {
  atomicMin(reinterpret_cast<int*>(to), __float_as_int(value));
}

// Tile `at` of all samples: rows against columns.
template <class T, Metric kMetric>
__device__ __forceinline__ void nearest_in_tile(const FarthestPointsArgs& a, const FarthestScratch& s, int64_t tiles,
                                                int64_t at, float* rows, float* columns) {
  const int64_t first_row = at % tiles * kTile;
  const int64_t first_column = at / tiles % tiles * kTile;
  const int64_t b = at / tiles / tiles;
  const int64_t items = b * a.rows;
  float sum[kThreadRows][kThreadColumns] = {};
  for (int64_t depth = 0; depth < a.width; depth += kTileDepth) {
    load_scaled<T>(rows, a, s.scale, b, first_row, depth);
    load_scaled<T>(columns, a, s.scale, b, first_column, depth);
    __syncthreads();
    add_tile<kMetric>(rows, columns, sum);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
    const int64_t row = first_row + threadIdx.x / kLaneColumns + kLaneRows * i;
    float nearest = kInfinity;
#pragma unroll
    for (int j = 0; j < kThreadColumns; ++j) {
      const int64_t column = first_column + threadIdx.x % kLaneColumns + kLaneColumns * j;
      const bool partner = column < a.rows && column != row && !is_masked(a, items + column);
      if (partner && s.scale[items + column] == s.scale[items + column]) {
        nearest = fminf(nearest, gap_of<kMetric>(sum[i][j]));
      }
    }
#pragma unroll
    for (int step = kLaneColumns / 2; step > 0; step /= 2) {
      nearest = fminf(nearest, __shfl_xor_sync(kAllLanes, nearest, step));
    }
    const bool own = threadIdx.x % kLaneColumns == 0 && row < a.rows;
    if (own && s.scale[items + row] == s.scale[items + row]) lower(s.nearest + items + row, nearest);
  }
}

template <class T, Metric kMetric>
__global__ void __launch_bounds__(kTileThreads)
    farthest_nearest_kernel(FarthestPointsArgs a, FarthestScratch s, int64_t tiles) {
  TK_SHARED(rows, float[kTile * kTilePitch]);
  TK_SHARED(columns, float[kTile * kTilePitch]);
  for (int64_t at = blockIdx.x; at < a.batch * tiles * tiles; at += gridDim.x) {
    nearest_in_tile<T, kMetric>(a, s, tiles, at, rows, columns);
  }
}

template <class Unused>
__global__ void __launch_bounds__(kPassThreads)
    farthest_first_kernel(FarthestPointsArgs a, FarthestScratch s, int64_t blocks) {
  const int64_t b = int64_t{blockIdx.x} / blocks;
  const int64_t j = int64_t{blockIdx.x} % blocks * kFirstRows + threadIdx.x;
  const int64_t item = b * a.rows + j;
  unsigned long long offer = 0;
  if (j < a.rows && start_of(a, b) < 0) offer = offer_of(s.nearest[item], is_masked(a, item), j);
  offer_warp(offer, s.offers + b * a.picks);
}

// ---- every other pick -----------------------------------------------------------------------------------------------
// What a lane has on its way from memory: elements lane, lane + 32, .. of a chunk of every row of its warp, and of the
// pick.
template <class T>
struct PassChunk {
  static constexpr int kParts = kPassDepth / 32;
  T row[kPassWarpRows][kParts];
  T pick[kParts];

  __device__ __forceinline__ void load(const T* x, int64_t stride, int64_t rows, const T* y, int64_t left) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const bool inside = lane + 32 * i < left;
      pick[i] = inside ? y[lane + 32 * i] : T{};
#pragma unroll
      for (int r = 0; r < kPassWarpRows; ++r) row[r][i] = inside && r < rows ? x[r * stride + lane + 32 * i] : T{};
    }
  }
};

// A warp's part of shared memory.
struct PassTile {
  float row[kPassWarpRows][kPassDepth + 4];  // float4 reads of 8 neighbouring rows meet all banks
  float pick[kPassDepth];
};

// The sum over d for row `first + lane` and the pick, in the first kPassWarpRows lanes.
template <class T, Metric kMetric>
__device__ __forceinline__ float pair_with_pick(const FarthestPointsArgs& a, const float* scale, int64_t b,
                                                int64_t first, int64_t with, PassTile& tile) {
  const int lane = threadIdx.x % 32;
  const int own = lane % kPassWarpRows;
  const int64_t rows = a.rows - first;
  const T* x = row_of<T>(a, b, first);
  const T* y = row_of<T>(a, b, with);
  float factor[kPassWarpRows];
#pragma unroll
  for (int r = 0; r < kPassWarpRows; ++r) factor[r] = r < rows ? scale[first + r] : 0.0f;
  PassChunk<T> next;
  next.load(x, a.x_row_stride, rows, y, a.width);
  float sum = 0;
  for (int64_t depth = 0; depth < a.width; depth += kPassDepth) {
#pragma unroll
    for (int i = 0; i < PassChunk<T>::kParts; ++i) {
      tile.pick[lane + 32 * i] = to_float(next.pick[i]) * scale[with];
#pragma unroll
      for (int r = 0; r < kPassWarpRows; ++r) tile.row[r][lane + 32 * i] = to_float(next.row[r][i]) * factor[r];
    }
    __syncwarp();
    const int64_t after = depth + kPassDepth;
    if (after < a.width) next.load(x + after, a.x_row_stride, rows, y + after, a.width - after);
#pragma unroll 8
    for (int e = 0; e < kPassDepth; e += 4) {
      const float4 p = *reinterpret_cast<const float4*>(tile.row[own] + e);
      const float4 q = *reinterpret_cast<const float4*>(tile.pick + e);
      sum = add_pair<kMetric>(p.x, q.x, sum);
      sum = add_pair<kMetric>(p.y, q.y, sum);
      sum = add_pair<kMetric>(p.z, q.z, sum);
      sum = add_pair<kMetric>(p.w, q.w, sum);
    }
    __syncwarp();
  }
  return sum;
}

__device__ __forceinline__ float score_with(const FarthestPointsArgs& a, float score, float gap) {
  if (a.mode == Spread::maxmin) return fminf(gap, score);
  return score + (a.metric == Metric::l2 ? sqrtf(gap) : gap);
}

// What the pick of step p is answered with, by the thread that owns its row.
__device__ __forceinline__ void write_pick(const FarthestPointsArgs& a, const FarthestScratch& s, int64_t b, int64_t p,
                                           int64_t j) {
  const int64_t item = b * a.rows + j;
  const bool given = p == 0 && start_of(a, b) >= 0;
  const bool squared = a.metric == Metric::l2 && (p == 0 || a.mode == Spread::maxmin);
  const float score = p == 0 && !given ? s.nearest[item] : s.score[item];
  const float found = is_masked(a, item) ? -kInfinity : squared ? sqrtf(score) : score;
  a.order[b * a.picks + p] = j;
  a.score[b * a.picks + p] = given ? kInfinity : found;
  s.picked[item] = 1;
}

template <class T, Metric kMetric>
__global__ void __launch_bounds__(kPassThreads)
    farthest_pass_kernel(FarthestPointsArgs a, FarthestScratch s, int64_t p, int64_t blocks) {
  TK_SHARED(tiles, PassTile[kPassWarps]);
  const int64_t b = int64_t{blockIdx.x} / blocks;
  const int warp = threadIdx.x / 32;
  const int64_t first = int64_t{blockIdx.x} % blocks * kPassRows + warp * kPassWarpRows;
  const int64_t j = threadIdx.x % 32 < kPassWarpRows ? first + threadIdx.x % 32 : a.rows;  // others only help to load
  const int64_t items = b * a.rows;
  const bool given = p == 0 && start_of(a, b) >= 0;
  const int64_t pick = given ? start_of(a, b) : item_of(s.offers[b * a.picks + p]);
  if (j == pick) write_pick(a, s, b, p, j);
  if (p + 1 == a.picks || first >= a.rows) return;
  const float* scale = s.scale + items;
  const bool partner = !is_masked(a, items + pick) && scale[pick] == scale[pick];
  const float sum = partner ? pair_with_pick<T, kMetric>(a, scale, b, first, pick, tiles[warp]) : 0.0f;
  unsigned long long offer = 0;
  if (j < a.rows && !s.picked[items + j]) {
    float score = s.score[items + j];
    if (partner && scale[j] == scale[j]) score = score_with(a, score, gap_of<kMetric>(sum));
    s.score[items + j] = score;
    offer = offer_of(score, is_masked(a, items + j), j);
  }
  offer_warp(offer, s.offers + b * a.picks + p + 1);
}

}  // namespace tk::selection::gpu
