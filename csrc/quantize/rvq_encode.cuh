// SPDX-License-Identifier: Apache-2.0
// A stack of codebooks, by the float32 tiles of nearest. Up to kResidentWidth wide, a block keeps the residuals of 64
// rows in shared memory through all layers (rvq_stack_kernel). Wider rows, and so few that codes must be cut into
// ranges to fill the device, leave them in the workspace and take two launches a layer: rvq_search_kernel and
// rvq_step_kernel. Both ways give the same bits.
#pragma once
#include "core/nearest_column.cuh"
#include "quantize/rvq_encode.h"

namespace tk::quantize::gpu {

using ::tk::gpu::NearnessScore;

constexpr int64_t kResidentWidth = 256;
constexpr int kWarpRows = kSearchRows / (kSearchThreads / 32);

// Where the device keeps what lies between its kernels; all but `column` only where residuals are in the workspace.
struct RvqScratch {
  float* residual;    // (G, N, D)
  float* squares;     // (G, N): of the residual
  BestColumn* parts;  // (splits, G, N): best of one range of codes
  float* column;      // (G, Q, K): column_value
};

// ---- code norms: one warp a code ------------------------------------------------------------------------------------
template <class T>
__global__ void __launch_bounds__(kNormThreads) rvq_norms_kernel(RvqEncodeArgs a, float* column) {
  const int64_t item = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  if (item >= a.groups * a.books * a.codes_count) return;
  const int64_t book = item / a.codes_count;
  const T* code = static_cast<const T*>(a.codes) + book / a.books * a.c_group_stride +
                  book % a.books * a.c_book_stride + item % a.codes_count * a.c_row_stride;
  const float squares = warp_squares(code, a.width, threadIdx.x % 32);
  if (threadIdx.x % 32 == 0) column[item] = column_value(a.metric, squares);
}

// ---- one row, by a warp ---------------------------------------------------------------------------------------------
__device__ __forceinline__ int64_t layers_of(const RvqEncodeArgs& a, int64_t g, int64_t n) {
  const int64_t layers = a.n_q ? a.n_q[g * a.n_q_group_stride + n] : a.layers;
  return layers < a.books ? layers : a.books;
}

// residual = x, quantized = 0; returns |x|^2.
template <class T>
__device__ __forceinline__ float start_row(const RvqEncodeArgs& a, int64_t g, int64_t n, float* residual, int lane) {
  const T* x = static_cast<const T*>(a.x) + g * a.x_group_stride + n * a.x_row_stride;
  float* quantized = a.quantized + (g * a.rows + n) * a.width;
  for (int64_t d = lane; d < a.width; d += 32) {
    residual[d] = to_float(x[d]);
    quantized[d] = 0;
  }
  return warp_squares(x, a.width, lane);
}

// Takes the best code of a layer off the residual, whose squared norm comes and goes.
template <class T>
__device__ __forceinline__ float take_code(const RvqEncodeArgs& a, int64_t g, int64_t n, int64_t layer,
                                           const BestColumn& best, float squares, float* residual, int lane) {
  const int64_t at = g * a.rows + n;
  const int64_t index = squares < kInfinity && best.score > -kInfinity ? best.index : 0;
  const T* code =
      static_cast<const T*>(a.codes) + g * a.c_group_stride + layer * a.c_book_stride + index * a.c_row_stride;
  float* quantized = a.quantized + at * a.width;
  for (int64_t d = lane; d < a.width; d += 32) {
    const float value = to_float(code[d]);
    residual[d] -= value;
    quantized[d] = layer == 0 ? value : quantized[d] + value;
  }
  const float left = warp_squares(residual, a.width, lane);  // a lane reads what it wrote
  if (lane == 0) {
    a.index[at * a.books + layer] = index;
    a.error[at * a.books + layer] = finite_or_nan(left);
  }
  return left;
}

__device__ __forceinline__ void drop_layer(const RvqEncodeArgs& a, int64_t at, int64_t layer) {
  a.index[at * a.books + layer] = -1;
  a.error[at * a.books + layer] = 0;
}

// ---- residuals in shared memory -------------------------------------------------------------------------------------
struct StackShared {
  TileBuffers<FmaTile, false> buffers;
  BestColumn best[kSearchRows];
  float squares[kSearchRows];
  int layers[kSearchRows];
  // and behind it the residuals, resident_pitch(width) apart
};

// Padded with zeros to whole steps; neighbouring rows meet different banks.
TK_INLINE int resident_pitch(int64_t width) {
  return static_cast<int>(chunks_of<FmaTile>(width)) * FmaTile::kDepth + FmaTile::kPitch - FmaTile::kDepth;
}

inline size_t stack_shared_bytes(int64_t width) {
  return sizeof(StackShared) + static_cast<size_t>(kSearchRows * resident_pitch(width)) * sizeof(float);
}

// A warp works on rows of its own, so blocks wait only for tiles of codes.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads) rvq_stack_kernel(RvqEncodeArgs a, const float* column) {
  TK_DYNAMIC_SHARED(StackShared, shared);
  float* residuals = reinterpret_cast<float*>(shared + 1);
  const int pitch = resident_pitch(a.width);
  const int lane = threadIdx.x % 32;
  const int64_t row_tiles = (a.rows + kSearchRows - 1) / kSearchRows;
  const int64_t g = blockIdx.x / row_tiles;
  const int64_t first = blockIdx.x % row_tiles * kSearchRows;
#pragma unroll 1
  for (int i = 0; i < kWarpRows; ++i) {
    const int row = FmaTile::warp_row(i);
    const bool valid = first + row < a.rows;
    for (int64_t d = (valid ? a.width : 0) + lane; d < pitch; d += 32) residuals[row * pitch + d] = 0;
    const float squares = valid ? start_row<T>(a, g, first + row, residuals + row * pitch, lane) : 0;
    if (lane != 0) continue;
    shared->squares[row] = squares;
    shared->layers[row] = valid ? static_cast<int>(layers_of(a, g, first + row)) : 0;
  }
  __syncthreads();
  int layers = 0;
  for (int row = 0; row < kSearchRows; ++row) layers = shared->layers[row] > layers ? shared->layers[row] : layers;
#pragma unroll 1
  for (int layer = 0; layer < layers; ++layer) {
    const T* book = static_cast<const T*>(a.codes) + g * a.c_group_stride + layer * a.c_book_stride;
    const NearnessScore score{column + (g * a.books + layer) * a.codes_count, a.metric};
    OfferTile<FmaTile, BestColumn, NearnessScore> offers{score, a.codes_count, {}};
    walk_columns<T, FmaTile, kAligned>(residuals, pitch, Vectors<T>{book, a.c_row_stride, a.codes_count, a.width},
                                       shared->buffers, offers);
#pragma unroll
    for (int i = 0; i < FmaTile::kRows; ++i) {
      const BestColumn best = join_lanes<FmaTile::kLanes>(offers.best[i]);
      if (threadIdx.x % FmaTile::kLanes == 0) shared->best[FmaTile::row(i)] = best;
    }
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < kWarpRows; ++i) {
      const int row = FmaTile::warp_row(i);
      if (layer >= shared->layers[row]) continue;
      const float left = take_code<T>(a, g, first + row, layer, shared->best[row], shared->squares[row],
                                      residuals + row * pitch, lane);
      __syncwarp();  // all have read the norm of the row before
      if (lane == 0) shared->squares[row] = left;
    }
    __syncthreads();  // the buffers are free again
  }
  for (int64_t i = threadIdx.x; i < kSearchRows * a.books; i += kSearchThreads) {
    const int row = static_cast<int>(i / a.books);
    if (first + row < a.rows && i % a.books >= shared->layers[row]) {
      drop_layer(a, g * a.rows + first + row, i % a.books);
    }
  }
}

// ---- residuals in the workspace -------------------------------------------------------------------------------------
template <class T>
__global__ void __launch_bounds__(kNormThreads) rvq_start_kernel(RvqEncodeArgs a, RvqScratch s) {
  const int64_t at = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  if (at >= a.groups * a.rows) return;
  const int lane = threadIdx.x % 32;
  const float squares = start_row<T>(a, at / a.rows, at % a.rows, s.residual + at * a.width, lane);
  if (lane == 0) s.squares[at] = squares;
}

struct KeepPart {
  const DeviceSearch& search;
  const SearchTask& task;
  BestColumn* parts;

  __device__ __forceinline__ void operator()(int64_t in_tile, const BestColumn& best) const {
    const int64_t row = task.first_row + in_tile;
    if (row < search.rows) parts[(task.split * search.batch + task.b) * search.rows + row] = best;
  }
};

// `column` has the codes of this layer.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kSearchThreads)
    rvq_search_kernel(Metric metric, DeviceSearch search, const float* column, int64_t group_columns,
                      BestColumn* parts) {
  TK_SHARED(buffers, TileBuffers<FmaTile>);
  const SearchTask task = search_task(search);
  const NearnessScore score{column + task.b * group_columns, metric};
  search_tile<BestColumn, float, T, FmaTile, kAligned>(search, task, score, buffers, KeepPart{search, task, parts});
}

template <class T>
__global__ void __launch_bounds__(kNormThreads)
    rvq_step_kernel(RvqEncodeArgs a, RvqScratch s, int64_t layer, int64_t splits) {
  const int64_t rows = a.groups * a.rows;
  const int64_t at = (int64_t{blockIdx.x} * kNormThreads + threadIdx.x) / 32;
  if (at >= rows) return;
  const int lane = threadIdx.x % 32;
  if (layer >= layers_of(a, at / a.rows, at % a.rows)) {
    if (lane == 0) drop_layer(a, at, layer);
    return;
  }
  BestColumn best;
  for (int64_t split = lane; split < splits; split += 32) best.join(s.parts[split * rows + at]);
  best = join_lanes<32>(best);
  const float squares = s.squares[at];
  const float left = take_code<T>(a, at / a.rows, at % a.rows, layer, best, squares, s.residual + at * a.width, lane);
  __syncwarp();  // all have read the norm
  if (lane == 0) s.squares[at] = left;
}

}  // namespace tk::quantize::gpu
