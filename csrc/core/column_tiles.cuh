// SPDX-License-Identifier: Apache-2.0
// Products of rows and columns on a device, never stored. A block keeps a tile of rows and walks over tiles of columns;
// its threads hold the products of a tile in registers and hand them to whoever asked, then take the next tile.
//
// The product of one pair is one chain in ascending d, so equal columns have equal products.
#pragma once
#include "core/gpu.cuh"
#include "core/spread_rows.cuh"

namespace tk {

constexpr int kSearchThreads = 128;
constexpr int kSearchRows = 64;
constexpr int kSearchColumns = 64;

// One sample's vectors.
template <class T>
struct Vectors {
  const T* data;
  int64_t stride, count, width;
};

// What is read at once where elements change their type.
template <class T, int kItems>
struct alignas(sizeof(T) * kItems) ItemsRead {
  T item[kItems];
};

// Copies kRows x kDepth elements to shared memory, rows kPitch apart; zeros where the vectors end. kAligned: rows move
// 16 bytes at a time.
template <int kRows, int kDepth, int kPitch, bool kAligned, class Stored, class T>
__device__ __forceinline__ void load_tile(Stored* shared, const Vectors<T>& v, int64_t first, int64_t depth) {
  constexpr int kUnit = 16 / static_cast<int>(sizeof(Stored));
  constexpr int kUnits = kDepth / kUnit;
  constexpr bool kSame = sizeof(Stored) == sizeof(T);
  static_assert(kUnits == 4 && kPitch * sizeof(Stored) == 80 && kRows % 8 == 0, "what spread_row is for");
  for (int u = threadIdx.x; u < kRows * kUnits; u += kSearchThreads) {
    const int in_tile = spread_row(u / kUnits);
    const int64_t row = first + in_tile;
    const int64_t d = depth + u % kUnits * kUnit;
    Stored* to = shared + in_tile * kPitch + u % kUnits * kUnit;
    const T* from = v.data + (row < v.count ? row * v.stride : 0) + d;
    const bool valid = row < v.count && d < v.width;
    if constexpr (kAligned && kSame) {
      cp_async16_or_zero(to, valid ? from : v.data, valid);
    } else if constexpr (kAligned) {
      using Items = ItemsRead<T, kUnit>;
      const Items items = valid ? *reinterpret_cast<const Items*>(from) : Items{};
      *reinterpret_cast<float4*>(to) =
          float4{to_float(items.item[0]), to_float(items.item[1]), to_float(items.item[2]), to_float(items.item[3])};
    } else {
#pragma unroll
      for (int e = 0; e < kUnit; ++e) {
        const bool there = valid && d + e < v.width;
        if constexpr (kSame) {
          to[e] = there ? from[e] : T{};
        } else {
          to[e] = there ? to_float(from[e]) : 0.0f;
        }
      }
    }
  }
}

// What a thread copies of tiles of kRows vectors where load_tile would use cp.async: the same part of the same rows in
// every step, so that addresses are found once for all chunks of d.
template <int kRows, int kDepth, int kPitch, class T>
struct CopiedRows {
  static constexpr int kUnit = 16 / static_cast<int>(sizeof(T));
  static constexpr int kUnits = kDepth / kUnit;
  static constexpr int kRowStep = kSearchThreads / kUnits;
  static constexpr int kCopies = kRows / kRowStep;
  static_assert(kUnits == 4 && kRowStep % 8 == 0 && kRows % kRowStep == 0, "what spread_row is for");
  const T* from[kCopies];  // null behind the last vector

  static __device__ __forceinline__ int unit() { return threadIdx.x % kUnits * kUnit; }
  static __device__ __forceinline__ int row() { return spread_row(threadIdx.x / kUnits); }

  __device__ __forceinline__ void begin(const Vectors<T>& v, int64_t first) {
    const int64_t row0 = first + row();
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool valid = row0 + i * kRowStep < v.count;
      from[i] = valid ? v.data + (row0 + i * kRowStep) * v.stride + unit() : nullptr;
    }
  }

  __device__ __forceinline__ void copy(T* shared, const Vectors<T>& v, int depth) const {
    T* to = shared + row() * kPitch + unit();
    const bool inside = depth + unit() < static_cast<int>(v.width);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool valid = inside && from[i];
      cp_async16_or_zero(to + i * kRowStep * kPitch, valid ? from[i] + depth : v.data, valid);
    }
  }
};

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
  int tile, chunk, stage;
  TK_HOST_DEVICE void advance(int chunks, int stages) {
    stage = stage + 1 == stages ? 0 : stage + 1;
    if (++chunk < chunks) return;
    chunk = 0;
    ++tile;
  }
};

// ---- the products of a tile -----------------------------------------------------------------------------------------
// Both kinds offer the same: kRows x kColumns products a thread, at(i, j) being that of row(i) and column(j) of the
// tile, columns ascending in j; kLanes neighbouring lanes share their rows. A warp has rows of its own:
// warp_row(0..15).

// 8 rows x 4 columns a thread, from float32.
struct FmaTile {
  using Stored = float;
  static constexpr int kDepth = 16;
  static constexpr int kPitch = kDepth + 4;  // float4 reads of 8 neighbouring rows meet all banks
  static constexpr int kStages = 2;
  static constexpr int kRows = 8;
  static constexpr int kColumns = 4;
  static constexpr int kLanes = kSearchColumns / kColumns;
  static constexpr int kRowStep = kSearchRows / kRows;
  static constexpr int kScorePitch = kSearchColumns + 16;  // of products in shared memory: no two lanes share a bank
  float sum[kRows][kColumns];

  __device__ __forceinline__ float& at(int i, int j) { return sum[i][j]; }
  static __device__ __forceinline__ int row(int i) { return threadIdx.x / kLanes + kRowStep * i; }
  static __device__ __forceinline__ int column(int j) { return threadIdx.x % kLanes + kLanes * j; }
  static __device__ __forceinline__ int warp_row(int n) { return threadIdx.x / 32 * 2 + n % 2 + kRowStep * (n / 2); }

  static __device__ __forceinline__ float chain(const float4& x, const float4& y, float sum) {
    return fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[i][j] = 0;
    }
  }

  __device__ __forceinline__ void multiply(const float* rows, int row_pitch, const float* columns) {
#pragma unroll
    for (int d = 0; d < kDepth; d += 4) {
      float4 y[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) y[j] = *reinterpret_cast<const float4*>(columns + column(j) * kPitch + d);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(rows + row(i) * row_pitch + d);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[i][j] = chain(x, y[j], sum[i][j]);
      }
    }
  }
};

// float16 and bfloat16 on tensor cores: a warp multiplies 16 rows by all columns of a tile.
template <class T>
struct MmaTile {
  using Stored = T;
  static constexpr int kDepth = 32;
  static constexpr int kPitch = kDepth + 8;  // 80 bytes: the eight rows of a matrix fall into different banks
  static constexpr int kStages = 4;          // a step is over before its successor could come from memory
  static constexpr int kRows = 2;
  static constexpr int kColumns = kSearchColumns / 4;
  static constexpr int kLanes = 4;
  static constexpr int kWarpRows = 16;
  static constexpr int kScorePitch = kSearchColumns + 8;  // of products in shared memory: two lanes share a bank
  static_assert(kSearchThreads / 32 * kWarpRows == kSearchRows, "each warp has its own rows");
  float sum[kSearchColumns / 8][4];

  __device__ __forceinline__ float& at(int i, int j) { return sum[j / 2][2 * i + j % 2]; }
  static __device__ __forceinline__ int row(int i) { return warp_row(threadIdx.x % 32 / 4 + 8 * i); }
  static __device__ __forceinline__ int column(int j) { return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2; }
  static __device__ __forceinline__ int warp_row(int n) { return threadIdx.x / 32 * kWarpRows + n; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int g = 0; g < kSearchColumns / 8; ++g) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[g][e] = 0;
    }
  }

  __device__ __forceinline__ void multiply(const T* rows, int row_pitch, const T* columns) {
    const int lane = threadIdx.x % 32;
    const T* x = rows + warp_row(lane % 16) * row_pitch + lane / 16 * 8;
    const T* y = columns + (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int d = 0; d < kDepth; d += 16) {
      uint32_t left[4];
      ldmatrix_x4(left, x + d);
#pragma unroll
      for (int g = 0; g < kSearchColumns / 8; g += 2) {  // two groups of eight columns a load
        uint32_t both[4];
        ldmatrix_x4(both, y + g * 8 * kPitch + d);
        const uint32_t first[2] = {both[0], both[1]};
        const uint32_t second[2] = {both[2], both[3]};
        mma_m16n8k16<T>(sum[g], left, first);
        mma_m16n8k16<T>(sum[g + 1], left, second);
      }
    }
  }
};

// ---- the walk -------------------------------------------------------------------------------------------------------
// Where a block keeps the steps that are on their way; without rows, where these are in shared memory for good.
template <class Tile, bool kRows = true>
struct TileBuffers {
  static constexpr int kRowElements = kRows ? kSearchRows * Tile::kPitch : 0;
  static constexpr int kColumnElements = kSearchColumns * Tile::kPitch;
  typename Tile::Stored elements[Tile::kStages * (kRowElements + kColumnElements)];

  __device__ __forceinline__ typename Tile::Stored* rows(int stage) { return elements + stage * kRowElements; }
  __device__ __forceinline__ typename Tile::Stored* columns(int stage) {
    return elements + Tile::kStages * kRowElements + stage * kColumnElements;
  }
};

// Keeps kStages - 1 steps on their way from global memory while one is multiplied.
template <class X, class Y, class Tile, bool kRows, bool kAligned>
struct TileStream {
  TileBuffers<Tile, kRows>& buffers;
  Vectors<X> x;
  Vectors<Y> y;
  int64_t first_row;
  int tile_end, chunks;
  SearchStep next;

  static constexpr bool kCopied =
      kRows && kAligned && sizeof(X) == sizeof(typename Tile::Stored) && sizeof(Y) == sizeof(X);
  CopiedRows<kSearchRows, Tile::kDepth, Tile::kPitch, typename Tile::Stored> x_rows = {};
  CopiedRows<kSearchColumns, Tile::kDepth, Tile::kPitch, typename Tile::Stored> y_rows = {};

  __device__ __forceinline__ void load_next() {
    if (next.tile < tile_end) {
      const int depth = next.chunk * Tile::kDepth;
      const int64_t first_column = int64_t{next.tile} * kSearchColumns;
      if constexpr (kCopied) {
        if (next.chunk == 0) y_rows.begin(y, first_column);
        x_rows.copy(buffers.rows(next.stage), x, depth);
        y_rows.copy(buffers.columns(next.stage), y, depth);
      } else {
        if constexpr (kRows) {
          load_tile<kSearchRows, Tile::kDepth, Tile::kPitch, kAligned>(buffers.rows(next.stage), x, first_row, depth);
        }
        load_tile<kSearchColumns, Tile::kDepth, Tile::kPitch, kAligned>(buffers.columns(next.stage), y, first_column,
                                                                        depth);
      }
      next.advance(chunks, Tile::kStages);
    }
    cp_async_commit();
  }

  __device__ __forceinline__ void start() {
    if constexpr (kCopied) x_rows.begin(x, first_row);
#pragma unroll
    for (int i = 0; i < Tile::kStages - 1; ++i) load_next();
  }

  // The oldest step has arrived for every thread, and the buffer of the one before it is free again.
  __device__ __forceinline__ void await_step() {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();
    load_next();
  }

  // Multiplies all steps. rows_of(step): where its rows are, row_pitch apart.
  template <class RowsOf, class Take>
  __device__ __forceinline__ void run(const RowsOf& rows_of, int row_pitch, Take& take) {
    Tile products;
    products.clear();
    SearchStep at = next;
    start();
    for (; at.tile < tile_end; at.advance(chunks, Tile::kStages)) {
      await_step();
      products.multiply(rows_of(at), row_pitch, buffers.columns(at.stage));
      if (at.chunk + 1 < chunks) continue;
      take(int64_t{at.tile} * kSearchColumns, products);
      products.clear();
    }
  }
};

template <class Tile>
TK_INLINE int chunks_of(int64_t width) {
  return width > Tile::kDepth ? static_cast<int>((width + Tile::kDepth - 1) / Tile::kDepth) : 1;
}

template <class Tile>
struct StreamedRows {
  TileBuffers<Tile>& buffers;
  __device__ __forceinline__ const typename Tile::Stored* operator()(const SearchStep& at) const {
    return buffers.rows(at.stage);
  }
};

template <class Tile>
struct ResidentRows {
  const typename Tile::Stored* rows;
  __device__ __forceinline__ const typename Tile::Stored* operator()(const SearchStep& at) const {
    return rows + at.chunk * Tile::kDepth;
  }
};

// Calls take(first column of the tile, its products) for every tile of the task. X and Y are the types of rows and
// columns in memory, kAligned where both move 16 bytes at a time.
template <class X, class Y, class Tile, bool kAligned, class Take>
__device__ __forceinline__ void walk_tiles(const DeviceSearch& s, const SearchTask& task, TileBuffers<Tile>& buffers,
                                           Take& take) {
  const Vectors<X> x{static_cast<const X*>(s.x) + task.b * s.x_batch_stride, s.x_row_stride, s.rows, s.width};
  const Vectors<Y> y{static_cast<const Y*>(s.y) + task.b * s.y_batch_stride, s.y_row_stride, s.columns, s.width};
  TileStream<X, Y, Tile, true, kAligned> stream{buffers,
                                                x,
                                                y,
                                                task.first_row,
                                                static_cast<int>(task.tile_end),
                                                chunks_of<Tile>(s.width),
                                                SearchStep{static_cast<int>(task.tile_begin), 0, 0}};
  stream.run(StreamedRows<Tile>{buffers}, Tile::kPitch, take);
}

// The same for rows that shared memory holds, over all columns; d is padded with zeros to a multiple of kDepth.
template <class Y, class Tile, bool kAligned, class Take>
__device__ __forceinline__ void walk_columns(const typename Tile::Stored* rows, int row_pitch, const Vectors<Y>& y,
                                             TileBuffers<Tile, false>& buffers, Take& take) {
  const auto tiles = static_cast<int>((y.count + kSearchColumns - 1) / kSearchColumns);
  TileStream<Y, Y, Tile, false, kAligned> stream{buffers, y, y, 0, tiles, chunks_of<Tile>(y.width), {0, 0, 0}};
  stream.run(ResidentRows<Tile>{rows}, row_pitch, take);
}

// ---- launches -------------------------------------------------------------------------------------------------------
inline int64_t search_blocks(int64_t batch, int64_t rows) { return batch * ((rows + kSearchRows - 1) / kSearchRows); }

// How many blocks a search should have, and from how many on another launch costs more than idle multiprocessors.
struct WantedBlocks {
  int64_t wanted, enough;
};
constexpr WantedBlocks kFewBlocks{264, 96};    // two a multiprocessor of an H100
constexpr WantedBlocks kManyBlocks{660, 400};  // as many as its shared memory holds of TileBuffers

// Tensor cores wait for shared memory, which more blocks only load more; they do help where columns come from far, and
// multiply-adds, which wait for themselves.
inline WantedBlocks blocks_for_tiles(DType dtype, int64_t rows) {
  return dtype == DType::f32 || rows <= kSearchRows ? kManyBlocks : kFewBlocks;
}

// Into how many ranges the columns are cut where so many blocks would take all of them.
inline int64_t splits_for(int64_t blocks, int64_t columns, WantedBlocks most = kFewBlocks) {
  const int64_t tiles = (columns + kSearchColumns - 1) / kSearchColumns;
  if (blocks == 0 || blocks >= most.enough || tiles <= 1) return 1;
  const int64_t wanted = (most.wanted + blocks - 1) / blocks;
  return wanted < tiles ? wanted : tiles;
}

inline int64_t column_splits(int64_t batch, int64_t rows, int64_t columns, WantedBlocks most = kFewBlocks) {
  return splits_for(search_blocks(batch, rows), columns, most);
}

// Every row moves 16 bytes at a time.
inline bool search_is_aligned(const DeviceSearch& s, DType dtype) {
  const auto item = static_cast<int64_t>(item_size(dtype));
  const auto addresses = reinterpret_cast<uintptr_t>(s.x) | reinterpret_cast<uintptr_t>(s.y);
  const int64_t extents = s.width | s.x_batch_stride | s.x_row_stride | s.y_batch_stride | s.y_row_stride;
  return (addresses | static_cast<uintptr_t>(extents * item)) % 16 == 0;
}

}  // namespace tk
