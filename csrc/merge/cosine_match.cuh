// SPDX-License-Identifier: Apache-2.0
// A block keeps a tile of rows and walks over tiles of columns; every thread carries the best column of its rows
// along, so that no similarity is ever stored. This file: what both kernels share, and the float32 kernel.
//
// A column's inverse norm is NaN where the column may not be chosen: the product then never wins. The dot product of
// one pair is one chain in ascending d, so equal columns tie exactly.
#pragma once
#include "core/gpu.cuh"
#include "merge/cosine_match.h"

namespace tk::merge::gpu {

constexpr int kMatchThreads = 128;
constexpr int kMatchRows = 64;
constexpr int kMatchColumns = 64;
constexpr int kNormThreads = 256;

TK_INLINE float not_a_number() { return detail::bit_cast<float>(uint32_t{0x7fc00000u}); }

// Where the device keeps what lies between its kernels.
struct MatchScratch {
  float* inverse_a;  // (B, Na): 0 for a zero vector, NaN for one that is not finite
  float* inverse_b;  // (B, Nb): likewise, and NaN for a column that is masked
  float* score;      // (splits, B, Na): best <a, b> / |b| of one range of columns
  int* index;        // (splits, B, Na)
};

// ---- norms: one warp a row ------------------------------------------------------------------------------------------
template <class T>
__device__ __forceinline__ float inverse_norm(const T* x, int64_t width, int lane) {
  float squares = 0;
  for (int64_t d = lane; d < width; d += 32) squares = fmaf(to_float(x[d]), to_float(x[d]), squares);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
  if (squares == 0) return 0;
  return squares < kInfinity ? 1.0f / sqrtf(squares) : not_a_number();
}

template <class T>
__global__ void __launch_bounds__(kNormThreads) match_norms_kernel(CosineMatchArgs a, MatchScratch s) {
  const int lane = threadIdx.x % 32;
  const int64_t item = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  const int64_t a_rows = a.batch * a.rows;
  const int64_t b_rows = a.batch * a.columns;
  if (item < a_rows) {
    const T* x = static_cast<const T*>(a.a) + item / a.rows * a.a_batch_stride + item % a.rows * a.a_row_stride;
    const float inverse = inverse_norm(x, a.width, lane);
    if (lane == 0) s.inverse_a[item] = inverse;
  } else if (item < a_rows + b_rows) {
    const int64_t j = item - a_rows;
    const T* x = static_cast<const T*>(a.b) + j / a.columns * a.b_batch_stride + j % a.columns * a.b_row_stride;
    const float inverse = inverse_norm(x, a.width, lane);
    if (lane == 0) s.inverse_b[j] = a.mask_b && !a.mask_b[j] ? not_a_number() : inverse;
  }
}

// ---- tiles
// ------------------------------------------------------------------------------------------------------------ One
// sample's vectors.
template <class T>
struct Vectors {
  const T* data;
  int64_t stride, count, width;
};

// Copies kRows x kDepth elements to shared memory, rows kPitch apart; zeros where the vectors end.
template <int kRows, int kDepth, int kPitch, bool kAligned, class T>
__device__ __forceinline__ void load_tile(T* shared, const Vectors<T>& v, int64_t first, int64_t depth) {
  constexpr int kUnit = 16 / static_cast<int>(sizeof(T));
  constexpr int kUnits = kDepth / kUnit;
  for (int u = threadIdx.x; u < kRows * kUnits; u += kMatchThreads) {
    const int64_t row = first + u / kUnits;
    const int64_t d = depth + u % kUnits * kUnit;
    T* to = shared + u / kUnits * kPitch + u % kUnits * kUnit;
    const T* from = v.data + (row < v.count ? row * v.stride : 0) + d;
    if (kAligned) {
      const bool valid = row < v.count && d < v.width;
      cp_async16_or_zero(to, valid ? from : v.data, valid);
    } else {
#pragma unroll
      for (int e = 0; e < kUnit; ++e) to[e] = row < v.count && d + e < v.width ? from[e] : T{};
    }
  }
}

// Which rows and columns a block works on.
struct MatchTask {
  int64_t b, first_row;
  int64_t tile_begin, tile_end;  // column tiles
  int64_t split;
};

__device__ __forceinline__ MatchTask match_task(const CosineMatchArgs& a, int64_t splits) {
  const int64_t row_tiles = (a.rows + kMatchRows - 1) / kMatchRows;
  const int64_t column_tiles = (a.columns + kMatchColumns - 1) / kMatchColumns;
  MatchTask task;
  task.split = blockIdx.x % splits;
  task.first_row = blockIdx.x / splits % row_tiles * kMatchRows;
  task.b = blockIdx.x / splits / row_tiles;
  task.tile_begin = column_tiles * task.split / splits;
  task.tile_end = column_tiles * (task.split + 1) / splits;
  return task;
}

// The steps of a block: all chunks of d of one column tile, then the next tile; its buffers are used in turn.
struct MatchStep {
  int64_t tile, chunk;
  int stage;
  TK_HOST_DEVICE void advance(int64_t chunks, int stages) {
    stage = stage + 1 == stages ? 0 : stage + 1;
    if (++chunk < chunks) return;
    chunk = 0;
    ++tile;
  }
};

// Keeps kStages - 1 steps on their way from global memory while one is multiplied.
template <class T, int kDepth, int kPitch, int kStages, bool kAligned>
struct TileStream {
  static constexpr int kRowElements = kMatchRows * kPitch;
  static constexpr int kColumnElements = kMatchColumns * kPitch;
  T* rows;     // shared, [kStages][kRowElements]
  T* columns;  // shared, [kStages][kColumnElements]
  Vectors<T> x, y;
  int64_t first_row, tile_end, chunks;
  MatchStep next;

  __device__ __forceinline__ void load_next() {
    if (next.tile < tile_end) {
      const int64_t depth = next.chunk * kDepth;
      load_tile<kMatchRows, kDepth, kPitch, kAligned>(rows + next.stage * kRowElements, x, first_row, depth);
      load_tile<kMatchColumns, kDepth, kPitch, kAligned>(columns + next.stage * kColumnElements, y,
                                                         next.tile * kMatchColumns, depth);
      next.advance(chunks, kStages);
    }
    cp_async_commit();
  }

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) load_next();
  }

  // The oldest step has arrived for every thread, and the buffer of the one before it is free again.
  __device__ __forceinline__ void await_step() {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    load_next();
  }
};

template <class T, int kDepth, int kPitch, int kStages, bool kAligned>
__device__ __forceinline__ TileStream<T, kDepth, kPitch, kStages, kAligned> tile_stream(const CosineMatchArgs& a,
                                                                                        const MatchTask& task, T* rows,
                                                                                        T* columns) {
  const Vectors<T> x{static_cast<const T*>(a.a) + task.b * a.a_batch_stride, a.a_row_stride, a.rows, a.width};
  const Vectors<T> y{static_cast<const T*>(a.b) + task.b * a.b_batch_stride, a.b_row_stride, a.columns, a.width};
  const int64_t chunks = a.width > kDepth ? (a.width + kDepth - 1) / kDepth : 1;
  return {rows, columns, x, y, task.first_row, task.tile_end, chunks, MatchStep{task.tile_begin, 0, 0}};
}

// ---- the best column of a row -------------------------------------------------------------------------------------
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
};

// Between lanes the lower column wins a tie. kLanes neighbours share a row.
template <int kLanes>
__device__ __forceinline__ BestColumn best_of_lanes(BestColumn best) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const float score = __shfl_xor_sync(0xffffffffu, best.score, step);
    const int index = __shfl_xor_sync(0xffffffffu, best.index, step);
    if (score > best.score || (score == best.score && index < best.index)) {
      best.score = score;
      best.index = index;
    }
  }
  return best;
}

__device__ __forceinline__ void write_answer(const CosineMatchArgs& a, int64_t row, BestColumn best, float inverse) {
  const bool matched = best.score > -kInfinity && inverse == inverse && (!a.mask_a || a.mask_a[row]);
  int64_t index = best.index;
  if (!matched) {
    const uint8_t* mask = a.mask_b ? a.mask_b + row / a.rows * a.columns : nullptr;
    for (index = 0; mask && index < a.columns && !mask[index];) ++index;
    if (index == a.columns) index = 0;
  }
  a.score[row] = matched ? best.score * inverse : -kInfinity;
  a.index[row] = index;
}

__device__ __forceinline__ void finish_row(const CosineMatchArgs& a, const MatchScratch& s, const MatchTask& task,
                                           int64_t splits, int64_t in_tile, BestColumn best) {
  if (task.first_row + in_tile >= a.rows) return;
  const int64_t row = task.b * a.rows + task.first_row + in_tile;
  if (splits == 1) return write_answer(a, row, best, s.inverse_a[row]);
  s.score[task.split * a.batch * a.rows + row] = best.score;
  s.index[task.split * a.batch * a.rows + row] = best.index;
}

// Combines the ranges of columns, in ascending order.
template <class Unused>
__global__ void __launch_bounds__(kNormThreads) match_splits_kernel(CosineMatchArgs a, MatchScratch s, int64_t splits) {
  const int64_t row = int64_t{blockIdx.x} * kNormThreads + threadIdx.x;
  const int64_t rows = a.batch * a.rows;
  if (row >= rows) return;
  BestColumn best;
  for (int64_t k = 0; k < splits; ++k) best.offer(s.score[k * rows + row], s.index[k * rows + row]);
  write_answer(a, row, best, s.inverse_a[row]);
}

// ---- float32: 8 rows x 4 columns a thread ---------------------------------------------------------------------------
constexpr int kDepth32 = 16;
constexpr int kPitch32 = kDepth32 + 4;  // float4 reads of 8 neighbouring rows meet all banks
constexpr int kStages32 = 2;
constexpr int kThreadRows = 8;
constexpr int kThreadColumns = 4;
constexpr int kLaneColumns = kMatchColumns / kThreadColumns;  // threads that share a row
constexpr int kLaneRows = kMatchRows / kThreadRows;

TK_INLINE float chain(const float4& x, const float4& y, float sum) {
  return fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
}

__device__ __forceinline__ void multiply_tile32(const float* rows, const float* columns,
                                                float (&sum)[kThreadRows][kThreadColumns]) {
  const int tx = threadIdx.x % kLaneColumns;
  const int ty = threadIdx.x / kLaneColumns;
#pragma unroll
  for (int d = 0; d < kDepth32; d += 4) {
    float4 y[kThreadColumns];
#pragma unroll
    for (int j = 0; j < kThreadColumns; ++j) {
      y[j] = *reinterpret_cast<const float4*>(columns + (tx + kLaneColumns * j) * kPitch32 + d);
    }
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const float4 x = *reinterpret_cast<const float4*>(rows + (ty + kLaneRows * i) * kPitch32 + d);
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) sum[i][j] = chain(x, y[j], sum[i][j]);
    }
  }
}

// Thread (tx, ty) offers its columns to its rows, in ascending order.
__device__ __forceinline__ void offer_tile32(const CosineMatchArgs& a, const float* inverse_b, int64_t first,
                                             float (&sum)[kThreadRows][kThreadColumns],
                                             BestColumn (&best)[kThreadRows]) {
#pragma unroll
  for (int j = 0; j < kThreadColumns; ++j) {
    const int64_t column = first + threadIdx.x % kLaneColumns + kLaneColumns * j;
    const float inverse = column < a.columns ? inverse_b[column] : not_a_number();
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      best[i].offer(sum[i][j] * inverse, static_cast<int>(column));
      sum[i][j] = 0;
    }
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kMatchThreads)
    match_float32_kernel(CosineMatchArgs a, MatchScratch s, int64_t splits) {
  TK_SHARED(rows, float[kStages32][kMatchRows * kPitch32]);
  TK_SHARED(columns, float[kStages32][kMatchColumns * kPitch32]);
  const MatchTask task = match_task(a, splits);
  auto stream = tile_stream<float, kDepth32, kPitch32, kStages32, kAligned>(a, task, rows[0], columns[0]);
  BestColumn best[kThreadRows];
  float sum[kThreadRows][kThreadColumns] = {};
  stream.start();
  for (MatchStep at{task.tile_begin, 0, 0}; at.tile < task.tile_end; at.advance(stream.chunks, kStages32)) {
    stream.await_step();
    multiply_tile32(rows[at.stage], columns[at.stage], sum);
    if (at.chunk + 1 < stream.chunks) continue;
    offer_tile32(a, s.inverse_b + task.b * a.columns, at.tile * kMatchColumns, sum, best);
  }
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
    const BestColumn row = best_of_lanes<kLaneColumns>(best[i]);
    const int in_tile = threadIdx.x / kLaneColumns + kLaneRows * i;
    if (threadIdx.x % kLaneColumns == 0) finish_row(a, s, task, splits, in_tile, row);
  }
}

}  // namespace tk::merge::gpu
