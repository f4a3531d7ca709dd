// SPDX-License-Identifier: Apache-2.0
// The nearest column of every row. Wide vectors meet in tiles (core/best_column.cuh), tensor cores where they can; up
// to 16 elements fit into the registers of a thread, which meets one column after the other.
//
// Few rows leave multiprocessors idle, so the columns are cut into ranges, by shape alone, that are joined later.
#pragma once
#include "core/best_column.cuh"
#include "core/nearest_column.h"

namespace tk::gpu {

// Where the device keeps what lies between its kernels. The narrow kernel needs the parts alone.
template <class Best>
struct NearestScratch {
  float* row;     // (batch, rows): row_value
  float* column;  // (batch, columns): column_value
  Best* parts;    // (splits, batch, rows): best of one range of columns
};

// ---- norms: one warp a vector ---------------------------------------------------------------------------------------
template <class T>
__global__ void __launch_bounds__(kNormThreads)
    nearest_norms_kernel(DeviceSearch s, Metric metric, float* row, float* column) {
  const int lane = threadIdx.x % 32;
  const int64_t item = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  const int64_t rows = s.batch * s.rows;
  if (item < rows) {
    const T* x = static_cast<const T*>(s.x) + item / s.rows * s.x_batch_stride + item % s.rows * s.x_row_stride;
    const float squares = warp_squares(x, s.width, lane);
    if (lane == 0) row[item] = row_value(metric, squares);
  } else if (item < rows + s.batch * s.columns) {
    const int64_t k = item - rows;
    const T* y = static_cast<const T*>(s.y) + k / s.columns * s.y_batch_stride + k % s.columns * s.y_row_stride;
    const float squares = warp_squares(y, s.width, lane);
    if (lane == 0) column[k] = column_value(metric, squares);
  }
}

// ---- scores and answers ---------------------------------------------------------------------------------------------
struct NearnessScore {
  const float* of;  // value of each column of one sample
  Metric metric;
  TK_HOST_DEVICE float operator()(float product, float value) const { return nearness(metric, product, value); }
};

__device__ __forceinline__ void write_nearest(Metric metric, BestColumn best, float row, int64_t missing,
                                              int64_t* index, float* value) {
  const bool found = best.score > -kInfinity && row == row;
  *index = found ? best.index : missing;
  *value = found ? reported(metric, best.score, row) : not_a_number();
}

__device__ __forceinline__ void write_nearest(const NearestColumn& a, int64_t at, const BestColumn& best, float row) {
  write_nearest(a.metric, best, row, 0, a.index + at, a.best + at);
}

__device__ __forceinline__ void write_nearest(const NearestColumn& a, int64_t at, const BestTwo& best, float row) {
  write_nearest(a, at, best.first, row);
  write_nearest(a.metric, best.second, row, -1, a.second + at, a.second_best + at);
}

template <class Best>
struct FinishNearest {
  const NearestColumn& a;
  const NearestScratch<Best>& s;
  const SearchTask& task;
  int64_t splits;

  __device__ __forceinline__ void operator()(int64_t in_tile, const Best& best) const {
    if (task.first_row + in_tile >= a.rows) return;
    const int64_t at = task.b * a.rows + task.first_row + in_tile;
    if (splits == 1) {
      write_nearest(a, at, best, s.row[at]);
    } else {
      s.parts[task.split * a.batch * a.rows + at] = best;
    }
  }
};

// ---- tiles ----------------------------------------------------------------------------------------------------------
template <class T, class Tile, bool kAligned, class Best>
__device__ __forceinline__ void nearest_tile(const NearestColumn& a, const DeviceSearch& search,
                                             const NearestScratch<Best>& s, TileBuffers<Tile>& buffers) {
  const SearchTask task = search_task(search);
  const NearnessScore score{s.column + task.b * a.columns, a.metric};
  search_tile<Best, T, T, Tile, kAligned>(search, task, score, buffers, FinishNearest<Best>{a, s, task, search.splits});
}

template <bool kAligned, class Best>
__global__ void __launch_bounds__(kSearchThreads)
    nearest_fma_kernel(NearestColumn a, DeviceSearch search, NearestScratch<Best> s) {
  TK_SHARED(buffers, TileBuffers<FmaTile>);
  nearest_tile<float, FmaTile, kAligned>(a, search, s, buffers);
}

template <class T, bool kAligned, class Best>
__global__ void __launch_bounds__(kSearchThreads)
    nearest_mma_kernel(NearestColumn a, DeviceSearch search, NearestScratch<Best> s) {
  TK_SHARED(buffers, TileBuffers<MmaTile<T>>);
  nearest_tile<T, MmaTile<T>, kAligned>(a, search, s, buffers);
}

// ---- narrow vectors: four rows a thread, columns from shared memory -------------------------------------------------
// All arithmetic is that of the tiles: a chain in ascending d, norms in the order of warp_squares.
constexpr int kNarrowWidth = 16;  // the widest
constexpr int kNarrowThreads = 128;
constexpr int kNarrowRows = 4;
constexpr int kNarrowColumns = 512;  // in shared memory at a time
constexpr int kNarrowBlockRows = kNarrowThreads * kNarrowRows;

template <int kWidth, class T>
__device__ __forceinline__ void load_narrow(const T* from, int64_t width, bool valid, float (&to)[kWidth]) {
#pragma unroll
  for (int d = 0; d < kWidth; ++d) to[d] = valid && d < width ? to_float(from[d]) : 0.0f;
}

// |x|^2 from its squares: the upper half is added to the lower one.
template <int kWidth>
__device__ __forceinline__ float fold_halves(const float (&sum)[kWidth]) {
  if constexpr (kWidth == 1) {
    return sum[0];
  } else {
    float half[kWidth / 2];
#pragma unroll
    for (int d = 0; d < kWidth / 2; ++d) half[d] = sum[d] + sum[d + kWidth / 2];
    return fold_halves(half);
  }
}

template <int kWidth>
__device__ __forceinline__ float narrow_squares(const float (&x)[kWidth]) {
  float squares[kWidth];
#pragma unroll
  for (int d = 0; d < kWidth; ++d) squares[d] = fmaf(x[d], x[d], 0.0f);  // a sum with it is no new fma
  return fold_halves(squares);
}

// score = product * scale + offset is either exactly product * value or product + value.
template <int kWidth>
struct NarrowColumns {
  float vectors[kNarrowColumns][kWidth];
  float scale[kNarrowColumns], offset[kNarrowColumns];
};

// From or to shared memory, 16 bytes at a time where it can.
template <int kWidth>
__device__ __forceinline__ void copy_narrow(const float (&from)[kWidth], float (&to)[kWidth]) {
  if constexpr (kWidth >= 4) {
#pragma unroll
    for (int d = 0; d < kWidth; d += 4) {
      *reinterpret_cast<float4*>(to + d) = *reinterpret_cast<const float4*>(from + d);
    }
  } else {
#pragma unroll
    for (int d = 0; d < kWidth; ++d) to[d] = from[d];
  }
}

template <int kWidth, class T>
__device__ __forceinline__ void stage_narrow(const NearestColumn& a, int64_t b, int64_t first, int64_t end,
                                             NarrowColumns<kWidth>& columns) {
#pragma unroll 1
  for (int c = threadIdx.x; c < kNarrowColumns; c += kNarrowThreads) {
    const int64_t k = first + c;
    const bool valid = k < end;
    const T* y = static_cast<const T*>(a.y) + b * a.y_batch_stride + (valid ? k * a.y_row_stride : 0);
    alignas(16) float vector[kWidth];
    load_narrow(y, a.width, valid, vector);
    const float value = valid ? column_value(a.metric, narrow_squares(vector)) : not_a_number();
    columns.scale[c] = a.metric == Metric::cosine ? value : 1.0f;
    columns.offset[c] = a.metric == Metric::cosine ? 0.0f : value;
    copy_narrow(vector, columns.vectors[c]);
  }
}

template <class T, int kWidth, class Best>
__global__ void __launch_bounds__(kNarrowThreads, 4)
    nearest_narrow_kernel(NearestColumn a, int64_t splits, Best* parts) {
  TK_SHARED(columns, NarrowColumns<kWidth>);
  const int64_t row_blocks = (a.rows + kNarrowBlockRows - 1) / kNarrowBlockRows;
  const int64_t split = blockIdx.x % splits;
  const int64_t first_row = blockIdx.x / splits % row_blocks * kNarrowBlockRows + threadIdx.x;
  const int64_t b = blockIdx.x / splits / row_blocks;
  float x[kNarrowRows][kWidth];
  Best best[kNarrowRows];
#pragma unroll
  for (int i = 0; i < kNarrowRows; ++i) {
    const int64_t row = first_row + i * kNarrowThreads;
    const bool valid = row < a.rows;
    const T* from = static_cast<const T*>(a.x) + b * a.x_batch_stride + (valid ? row * a.x_row_stride : 0);
    load_narrow(from, a.width, valid, x[i]);
  }
  const int64_t end = a.columns * (split + 1) / splits;
  for (int64_t first = a.columns * split / splits; first < end; first += kNarrowColumns) {
    __syncthreads();
    stage_narrow<kWidth, T>(a, b, first, end, columns);
    __syncthreads();
    const int count = end - first < kNarrowColumns ? static_cast<int>(end - first) : kNarrowColumns;
#pragma unroll kWidth < 4 ? 4 : 2
    for (int c = 0; c < count; ++c) {
      alignas(16) float y[kWidth];
      copy_narrow(columns.vectors[c], y);
      const float scale = columns.scale[c];
      const float offset = columns.offset[c];
#pragma unroll
      for (int i = 0; i < kNarrowRows; ++i) {
        float product = 0;
#pragma unroll
        for (int d = 0; d < kWidth; ++d) product = fmaf(x[i][d], y[d], product);
        best[i].offer(fmaf(product, scale, offset), static_cast<int>(first) + c);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kNarrowRows; ++i) {
    const int64_t row = first_row + i * kNarrowThreads;
    if (row >= a.rows) continue;
    const int64_t at = b * a.rows + row;
    if (splits == 1) {
      write_nearest(a, at, best[i], row_value(a.metric, narrow_squares(x[i])));
    } else {
      parts[split * a.batch * a.rows + at] = best[i];
    }
  }
}

// ---- ranges of columns, in ascending order --------------------------------------------------------------------------
// One warp a row, for the row's norm.
template <class T, class Best>
__global__ void __launch_bounds__(kNormThreads)
    nearest_join_kernel(NearestColumn a, int64_t splits, const Best* parts) {
  const int lane = threadIdx.x % 32;
  const int64_t at = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  const int64_t rows = a.batch * a.rows;
  if (at >= rows) return;
  const T* x = static_cast<const T*>(a.x) + at / a.rows * a.x_batch_stride + at % a.rows * a.x_row_stride;
  const float row = row_value(a.metric, warp_squares(x, a.width, lane));
  Best best;
  for (int64_t split = lane; split < splits; split += 32) best.join(parts[split * rows + at]);
  best = join_lanes<32>(best);
  if (lane == 0) write_nearest(a, at, best, row);
}

}  // namespace tk::gpu
