// SPDX-License-Identifier: Apache-2.0
// The tile loop under soft_aggregate and its gradient on the device:
//
//   sum[r, c] = sum over k of weight(r, k) * value[k, c],  weight(r, k) = exp(logit(r, k) - shift) * scale[k]
//
// Rows are targets and k tokens, or, in the gradient, the other way round: logits are read with any strides, and
// neighbouring threads follow the contiguous one. All arithmetic is float32 on the CUDA cores for every dtype: a weight
// of a target that gets little is too small for float16, and its mean would be lost.
#pragma once
#include "core/gpu.cuh"

namespace tk::merge::gpu {

constexpr int kSoftThreads = 256;
constexpr int kSoftRows = 64;   // rows of a block's tile
constexpr int kSoftDepth = 16;  // k of one round
// Of tiles [k][row] that are filled along k: four floats more than a row, so that eight k and four rows, which a warp
// fills at once, fall into different banks.
constexpr int kSoftPitch = kSoftRows + 4;
constexpr int kSoftRun = 8;  // neighbours along k that a row gives at once: 32 bytes of float32

struct alignas(16) Float4 {
  float item[4];
};

// Logits of all batches, as (rows, cols) matrices.
template <class L>
struct LogitMatrix {
  const L* data;
  int64_t batch_stride, row_stride, col_stride;
  int64_t rows, cols;
};

__device__ inline float inverse(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }

// ---- normalisers of rows
// ---------------------------------------------------------------------------------------------- A sum of exponentials
// relative to its largest logit.
struct SoftSum {
  float largest = -kInfinity;
  float sum = 0.0f;
};

__device__ inline void take(SoftSum& s, float logit) {
  if (logit == -kInfinity) return;
  if (logit > s.largest) {
    s.sum = s.sum * expf(s.largest - logit) + 1.0f;
    s.largest = logit;
  } else {
    s.sum += expf(logit - s.largest);
  }
}

__device__ inline SoftSum joined(SoftSum a, SoftSum b) {
  SoftSum s;
  s.largest = fmaxf(a.largest, b.largest);
  s.sum = a.sum * (a.largest == s.largest ? 1.0f : expf(a.largest - s.largest));
  s.sum += b.sum * (b.largest == s.largest ? 1.0f : expf(b.largest - s.largest));
  return s;
}

__device__ inline void write_normaliser(SoftSum s, int64_t at, const float* factor, float* shift, float* scale) {
  if (s.largest == kInfinity) s.sum = kInfinity - kInfinity;
  shift[at] = s.largest == -kInfinity ? 0.0f : s.largest;
  scale[at] = inverse(s.sum) * (factor ? factor[at] : 1.0f);
}

// shift[b, r]: what exp subtracts; scale[b, r]: factor / sum. One warp a row, lanes along the columns.
template <class L>
__global__ void __launch_bounds__(kSoftThreads)
    row_normalisers_kernel(LogitMatrix<L> l, int64_t total, const float* factor, float* shift, float* scale) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * kSoftThreads + threadIdx.x) / 32;
  if (row >= total) return;
  const L* from = l.data + row / l.rows * l.batch_stride + row % l.rows * l.row_stride;
  SoftSum s;
  for (int64_t k = lane; k < l.cols; k += 32) take(s, to_float(from[k * l.col_stride]));
  for (int step = 16; step > 0; step /= 2) {
    SoftSum other;
    other.largest = __shfl_xor_sync(kAllLanes, s.largest, step);
    other.sum = __shfl_xor_sync(kAllLanes, s.sum, step);
    s = lane & step ? joined(other, s) : joined(s, other);
  }
  if (lane == 0) write_normaliser(s, row, factor, shift, scale);
}

// The same where rows, not columns, are contiguous: 32 rows a block, lanes along the rows, warps share the columns.
template <class L>
__global__ void __launch_bounds__(kSoftThreads)
    column_normalisers_kernel(LogitMatrix<L> l, int64_t blocks, const float* factor, float* shift, float* scale) {
  constexpr int kWarps = kSoftThreads / 32;
  TK_SHARED(parts, SoftSum[kWarps][32]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t b = blockIdx.x / blocks;
  const int64_t row = blockIdx.x % blocks * 32 + lane;
  SoftSum s;
  if (row < l.rows) {
    const L* from = l.data + b * l.batch_stride + row * l.row_stride;
    for (int64_t k = warp; k < l.cols; k += kWarps) take(s, to_float(from[k * l.col_stride]));
  }
  parts[warp][lane] = s;
  __syncthreads();
  if (warp != 0 || row >= l.rows) return;
  for (int w = 1; w < kWarps; ++w) s = joined(s, parts[w][lane]);
  write_normaliser(s, b * l.rows + row, factor, shift, scale);
}

// ---- the loop
// ----------------------------------------------------------------------------------------------------------- What
// turns logits into weights; every array has one entry a row or column of every batch. Null pointers stand for zeros
// (shifts), ones (scale), and "no total wanted" (probe).
struct SoftWeigh {
  const float* row_shift;
  const float* col_shift;
  const float* col_scale;
  const float* col_probe;
};

struct SoftTile {
  float weight[kSoftDepth][kSoftPitch];
  float probe[kSoftDepth][kSoftPitch];
};

// Which row and k of such a tile the i-th element is, filled in runs along k.
__device__ inline int run_row(int i) { return i / kSoftRun % kSoftRows; }
__device__ inline int run_depth(int i) { return i / kSoftRun / kSoftRows * kSoftRun + i % kSoftRun; }

// Weights of rows r0 .. and columns k0 .. into shared memory; zero outside the matrix.
template <class L>
__device__ inline void fill_weights(const LogitMatrix<L>& l, const SoftWeigh& s, int64_t b, int64_t r0, int64_t k0,
                                    SoftTile& tile) {
  const L* from = l.data + b * l.batch_stride;
#pragma unroll 1  // rounds side by side spill registers
  for (int i = threadIdx.x; i < kSoftRows * kSoftDepth; i += kSoftThreads) {
    const bool along_rows = l.col_stride != 1;
    const int r = along_rows ? i % kSoftRows : run_row(i);
    const int k = along_rows ? i / kSoftRows : run_depth(i);
    float weight = 0.0f;
    float probe = 0.0f;
    if (r0 + r < l.rows && k0 + k < l.cols) {
      const int64_t row = b * l.rows + r0 + r;
      const int64_t col = b * l.cols + k0 + k;
      const float shift = (s.row_shift ? s.row_shift[row] : 0.0f) + (s.col_shift ? s.col_shift[col] : 0.0f);
      const float e = expf(to_float(from[(r0 + r) * l.row_stride + (k0 + k) * l.col_stride]) - shift);
      weight = s.col_scale ? e * s.col_scale[col] : e;
      probe = s.col_probe ? e * s.col_probe[col] : 0.0f;
    }
    tile.weight[k][r] = weight;
    if (s.col_probe) tile.probe[k][r] = probe;
  }
}

// Rows of values, as float32 and zero outside the matrix.
template <class T>
struct ValueMatrix {
  const T* data;
  int64_t batch_stride, row_stride;
  int64_t rows, width;
};

template <class T, int kCols>
__device__ inline void fill_values(const ValueMatrix<T>& v, int64_t b, int64_t k0, int64_t c0,
                                   float (&tile)[kSoftDepth][kCols]) {
  const T* from = v.data + b * v.batch_stride;
  for (int i = threadIdx.x; i < kSoftDepth * kCols; i += kSoftThreads) {
    const int k = i / kCols;
    const int c = i % kCols;
    const bool inside = k0 + k < v.rows && c0 + c < v.width;
    tile[k][c] = inside ? to_float(from[(k0 + k) * v.row_stride + c0 + c]) : 0.0f;
  }
}

// Thread (y, x) of 16 x 16 holds rows 4y .. 4y + 3 and, in every 64 columns, columns 4x .. 4x + 3.
template <int kCols>
struct SoftBlock {
  static constexpr int kQuads = kCols / 64;
  float item[4][kQuads * 4] = {};

  __device__ static int row(int i) { return threadIdx.x / 16 * 4 + i; }
  __device__ static int col(int j) { return j / 4 * 64 + threadIdx.x % 16 * 4 + j % 4; }
};

template <int kCols, int kRightPitch>
__device__ inline void multiply_add(const float (&left)[kSoftDepth][kSoftPitch],
                                    const float (&right)[kSoftDepth][kRightPitch], SoftBlock<kCols>& sum) {
#pragma unroll
  for (int k = 0; k < kSoftDepth; ++k) {
    const Float4 a = *reinterpret_cast<const Float4*>(&left[k][sum.row(0)]);
#pragma unroll
    for (int q = 0; q < SoftBlock<kCols>::kQuads; ++q) {
      const Float4 b = *reinterpret_cast<const Float4*>(&right[k][sum.col(4 * q)]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum.item[i][4 * q + j] = fmaf(a.item[i], b.item[j], sum.item[i][4 * q + j]);
      }
    }
  }
}

}  // namespace tk::merge::gpu
