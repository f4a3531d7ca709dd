// SPDX-License-Identifier: Apache-2.0
// For every row its best column on a device, by products that are never stored. A block keeps a tile of rows and walks
// over tiles of columns; every thread carries the best column of its rows along. A pair's score is
// Score{}(product, column), NaN where the column may not be chosen.
//
// The product of one pair is one chain in ascending d, so equal columns tie exactly.
#pragma once
#include "core/gpu.cuh"
#include "core/spread_rows.cuh"

namespace tk {

constexpr int kSearchThreads = 128;
constexpr int kSearchRows = 64;
constexpr int kSearchColumns = 64;
constexpr int kNormThreads = 256;

TK_INLINE float not_a_number() { return detail::bit_cast<float>(uint32_t{0x7fc00000u}); }

// |x|^2, on every lane of a warp.
template <class T>
__device__ __forceinline__ float warp_squares(const T* x, int64_t width, int lane) {
  float squares = 0;
  for (int64_t d = lane; d < width; d += 32) squares = fmaf(to_float(x[d]), to_float(x[d]), squares);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(kAllLanes, squares, step);
  return squares;
}

// 1 / |x|: 0 for a zero vector, NaN for one that is not finite.
TK_INLINE float inverse_root(float squares) {
  if (squares == 0) return 0;
  return squares < kInfinity ? 1.0f / sqrtf(squares) : not_a_number();
}

// ---- tiles --------------------------------------------------------------------------------------------------------
// One sample's vectors.
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
  static_assert(kUnits == 4 && kPitch * sizeof(T) == 80 && kRows % 8 == 0, "what spread_row is for");
  for (int u = threadIdx.x; u < kRows * kUnits; u += kSearchThreads) {
    const int in_tile = spread_row(u / kUnits);
    const int64_t row = first + in_tile;
    const int64_t d = depth + u % kUnits * kUnit;
    T* to = shared + in_tile * kPitch + u % kUnits * kUnit;
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

// Rows x, columns y, in elements of one dtype.
struct DeviceSearch {
  const void* x;
  const void* y;
  int64_t batch, rows, columns, width;
  int64_t x_batch_stride, x_row_stride;
  int64_t y_batch_stride, y_row_stride;
  int64_t splits;  // ranges that the columns are cut into, so that few rows still fill the device
};

// Which rows and columns a block works on.
struct SearchTask {
  int64_t b, first_row;
  int64_t tile_begin, tile_end;  // column tiles
  int64_t split;
};

__device__ __forceinline__ SearchTask search_task(const DeviceSearch& s) {
  const int64_t row_tiles = (s.rows + kSearchRows - 1) / kSearchRows;
  const int64_t column_tiles = (s.columns + kSearchColumns - 1) / kSearchColumns;
  SearchTask task;
  task.split = blockIdx.x % s.splits;
  task.first_row = blockIdx.x / s.splits % row_tiles * kSearchRows;
  task.b = blockIdx.x / s.splits / row_tiles;
  task.tile_begin = column_tiles * task.split / s.splits;
  task.tile_end = column_tiles * (task.split + 1) / s.splits;
  return task;
}

// The steps of a block: all chunks of d of one column tile, then the next tile; its buffers are used in turn.
struct SearchStep {
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
  static constexpr int kRowElements = kSearchRows * kPitch;
  static constexpr int kColumnElements = kSearchColumns * kPitch;
  T* rows;     // shared, [kStages][kRowElements]
  T* columns;  // shared, [kStages][kColumnElements]
  Vectors<T> x, y;
  int64_t first_row, tile_end, chunks;
  SearchStep next;

  __device__ __forceinline__ void load_next() {
    if (next.tile < tile_end) {
      const int64_t depth = next.chunk * kDepth;
      load_tile<kSearchRows, kDepth, kPitch, kAligned>(rows + next.stage * kRowElements, x, first_row, depth);
      load_tile<kSearchColumns, kDepth, kPitch, kAligned>(columns + next.stage * kColumnElements, y,
                                                          next.tile * kSearchColumns, depth);
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
__device__ __forceinline__ TileStream<T, kDepth, kPitch, kStages, kAligned> tile_stream(const DeviceSearch& s,
                                                                                        const SearchTask& task, T* rows,
                                                                                        T* columns) {
  const Vectors<T> x{static_cast<const T*>(s.x) + task.b * s.x_batch_stride, s.x_row_stride, s.rows, s.width};
  const Vectors<T> y{static_cast<const T*>(s.y) + task.b * s.y_batch_stride, s.y_row_stride, s.columns, s.width};
  const int64_t chunks = s.width > kDepth ? (s.width + kDepth - 1) / kDepth : 1;
  return {rows, columns, x, y, task.first_row, task.tile_end, chunks, SearchStep{task.tile_begin, 0, 0}};
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
    const float score = __shfl_xor_sync(kAllLanes, best.score, step);
    const int index = __shfl_xor_sync(kAllLanes, best.index, step);
    if (score > best.score || (score == best.score && index < best.index)) {
      best.score = score;
      best.index = index;
    }
  }
  return best;
}

// ---- float32: 8 rows x 4 columns a thread ---------------------------------------------------------------------------
constexpr int kDepth32 = 16;
constexpr int kPitch32 = kDepth32 + 4;  // float4 reads of 8 neighbouring rows meet all banks
constexpr int kStages32 = 2;
constexpr int kThreadRows = 8;
constexpr int kThreadColumns = 4;
constexpr int kLaneColumns = kSearchColumns / kThreadColumns;  // threads that share a row
constexpr int kLaneRows = kSearchRows / kThreadRows;

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
template <class Score>
__device__ __forceinline__ void offer_tile32(const Score& score, int64_t columns, int64_t first,
                                             float (&sum)[kThreadRows][kThreadColumns],
                                             BestColumn (&best)[kThreadRows]) {
#pragma unroll
  for (int j = 0; j < kThreadColumns; ++j) {
    const int64_t column = first + threadIdx.x % kLaneColumns + kLaneColumns * j;
    const float value = column < columns ? score.of[column] : not_a_number();
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      best[i].offer(score(sum[i][j], value), static_cast<int>(column));
      sum[i][j] = 0;
    }
  }
}

// Calls finish(row in the tile, best column) once for every row of the tile.
template <bool kAligned, class Score, class Finish>
__device__ __forceinline__ void search_tile32(const DeviceSearch& s, const SearchTask& task, const Score& score,
                                              float* rows, float* columns, const Finish& finish) {
  auto stream = tile_stream<float, kDepth32, kPitch32, kStages32, kAligned>(s, task, rows, columns);
  BestColumn best[kThreadRows];
  float sum[kThreadRows][kThreadColumns] = {};
  stream.start();
  for (SearchStep at{task.tile_begin, 0, 0}; at.tile < task.tile_end; at.advance(stream.chunks, kStages32)) {
    stream.await_step();
    multiply_tile32(rows + at.stage * stream.kRowElements, columns + at.stage * stream.kColumnElements, sum);
    if (at.chunk + 1 < stream.chunks) continue;
    offer_tile32(score, s.columns, at.tile * kSearchColumns, sum, best);
  }
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
    const BestColumn row = best_of_lanes<kLaneColumns>(best[i]);
    if (threadIdx.x % kLaneColumns == 0) finish(threadIdx.x / kLaneColumns + kLaneRows * i, row);
  }
}

// ---- float16 and bfloat16 on tensor cores: a warp multiplies 16 rows by all columns of a tile
// ------------------------
constexpr int kDepth16 = 32;
constexpr int kPitch16 = kDepth16 + 8;  // 80 bytes: the eight rows of a matrix fall into different banks
constexpr int kStages16 = 4;            // a step is over before its successor could come from memory
constexpr int kWarpRows = 16;
constexpr int kColumnGroups = kSearchColumns / 8;
static_assert(kSearchThreads / 32 * kWarpRows == kSearchRows, "each warp has its own rows");

template <class T>
__device__ __forceinline__ void multiply_tile16(const T* rows, const T* columns, float (&sum)[kColumnGroups][4]) {
  const int lane = threadIdx.x % 32;
  const T* x = rows + (threadIdx.x / 32 * kWarpRows + lane % 16) * kPitch16 + lane / 16 * 8;
  const T* y = columns + (lane / 16 * 8 + lane % 8) * kPitch16 + lane / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < kDepth16; d += 16) {
    uint32_t left[4];
    ldmatrix_x4(left, x + d);
#pragma unroll
    for (int g = 0; g < kColumnGroups; g += 2) {  // two groups of eight columns a load
      uint32_t both[4];
      ldmatrix_x4(both, y + g * 8 * kPitch16 + d);
      const uint32_t first[2] = {both[0], both[1]};
      const uint32_t second[2] = {both[2], both[3]};
      mma_m16n8k16<T>(sum[g], left, first);
      mma_m16n8k16<T>(sum[g + 1], left, second);
    }
  }
}

// The two columns of a thread in every group, offered to its two rows in ascending order.
template <class Score>
__device__ __forceinline__ void offer_tile16(const Score& score, int64_t columns, int64_t first,
                                             float (&sum)[kColumnGroups][4], BestColumn (&best)[2]) {
#pragma unroll
  for (int g = 0; g < kColumnGroups; ++g) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t column = first + g * 8 + threadIdx.x % 4 * 2 + e;
      const float value = column < columns ? score.of[column] : not_a_number();
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        best[r].offer(score(sum[g][2 * r + e], value), static_cast<int>(column));
        sum[g][2 * r + e] = 0;
      }
    }
  }
}

template <class T, bool kAligned, class Score, class Finish>
__device__ __forceinline__ void search_tile16(const DeviceSearch& s, const SearchTask& task, const Score& score,
                                              T* rows, T* columns, const Finish& finish) {
  auto stream = tile_stream<T, kDepth16, kPitch16, kStages16, kAligned>(s, task, rows, columns);
  BestColumn best[2];
  float sum[kColumnGroups][4] = {};
  stream.start();
  for (SearchStep at{task.tile_begin, 0, 0}; at.tile < task.tile_end; at.advance(stream.chunks, kStages16)) {
    stream.await_step();
    multiply_tile16(rows + at.stage * stream.kRowElements, columns + at.stage * stream.kColumnElements, sum);
    if (at.chunk + 1 < stream.chunks) continue;
    offer_tile16(score, s.columns, at.tile * kSearchColumns, sum, best);
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const BestColumn row = best_of_lanes<4>(best[r]);
    if (lane % 4 == 0) finish(threadIdx.x / 32 * kWarpRows + lane / 4 + 8 * r, row);
  }
}

// ---- launches -------------------------------------------------------------------------------------------------------
inline int64_t search_blocks(int64_t batch, int64_t rows) { return batch * ((rows + kSearchRows - 1) / kSearchRows); }

inline int64_t column_splits(int64_t batch, int64_t rows, int64_t columns) {
  constexpr int64_t kWantedBlocks = 264;  // two a multiprocessor of an H100
  constexpr int64_t kEnoughBlocks = 96;   // from here on, another launch costs more than idle multiprocessors
  const int64_t blocks = search_blocks(batch, rows);
  const int64_t tiles = (columns + kSearchColumns - 1) / kSearchColumns;
  if (blocks == 0 || blocks >= kEnoughBlocks || tiles <= 1) return 1;
  const int64_t wanted = (kWantedBlocks + blocks - 1) / blocks;
  return wanted < tiles ? wanted : tiles;
}

// Every row moves 16 bytes at a time.
inline bool search_is_aligned(const DeviceSearch& s, DType dtype) {
  const auto item = static_cast<int64_t>(item_size(dtype));
  const auto addresses = reinterpret_cast<uintptr_t>(s.x) | reinterpret_cast<uintptr_t>(s.y);
  const int64_t extents = s.width | s.x_batch_stride | s.x_row_stride | s.y_batch_stride | s.y_row_stride;
  return (addresses | static_cast<uintptr_t>(extents * item)) % 16 == 0;
}

}  // namespace tk
