// SPDX-License-Identifier: Apache-2.0
// Two launches: the normalisers of all sums, then a block a tile of 64 rows and 64 or 128 channels.
#pragma once
#include "merge/soft_aggregate.h"
#include "merge/soft_mma.cuh"
#include "merge/soft_tile.cuh"

namespace tk::merge::gpu {

// Where the sums go; every array has one entry a row of every batch.
template <class T>
struct SoftResult {
  T* out;                   // (batch, rows, width), contiguous
  const float* row_scale;   // or null for ones
  bool divide_by_total;     // by the total of the probes, instead of row_scale
  const float* row_factor;  // or null for ones
  float* total;             // or null
  // For the gradient over targets: partial[row, channel block] = row_scale * (sum . x, plus the total in block 0).
  const T* x;
  int64_t x_batch_stride, x_row_stride;
  float* partial;  // or null
};

template <class T, class L, int kCols>
__global__ void __launch_bounds__(kSoftThreads)
    soft_aggregate_kernel(LogitMatrix<L> l, SoftWeigh s, ValueMatrix<T> v, SoftResult<T> result, int64_t row_blocks,
                          int64_t col_blocks) {
  TK_SHARED(weights, SoftTile);
  TK_SHARED(values, float[kSoftDepth][kCols]);
  TK_SHARED(totals, float[kSoftRows]);
  const int64_t col_block = blockIdx.x % col_blocks;
  const int64_t b = blockIdx.x / col_blocks / row_blocks;
  const int64_t r0 = blockIdx.x / col_blocks % row_blocks * kSoftRows;
  const int64_t c0 = col_block * kCols;
  SoftBlock<kCols> sum;
  float total = 0.0f;
  for (int64_t k0 = 0; k0 < l.cols; k0 += kSoftDepth) {
    fill_weights(l, s, b, r0, k0, weights);
    fill_values<T, kCols>(v, b, k0, c0, values);
    __syncthreads();
    multiply_add<kCols>(weights.weight, values, sum);
    if (s.col_probe && threadIdx.x < kSoftRows) {
      for (int k = 0; k < kSoftDepth; ++k) total += weights.probe[k][threadIdx.x];
    }
    __syncthreads();
  }
  if (threadIdx.x < kSoftRows) totals[threadIdx.x] = total;
  __syncthreads();
  for (int i = 0; i < 4; ++i) {
    const int64_t r = r0 + sum.row(i);
    const int64_t row = b * l.rows + r;
    const bool inside = r < l.rows;
    const float given = inside && result.row_scale ? result.row_scale[row] : 1.0f;
    const float scale = result.divide_by_total ? inverse(totals[sum.row(i)]) : given;
    const float factor = inside && result.row_factor ? result.row_factor[row] : 1.0f;
    float dot = 0.0f;
    for (int j = 0; j < SoftBlock<kCols>::kQuads * 4; ++j) {
      const int64_t c = c0 + sum.col(j);
      if (!inside || c >= v.width) continue;
      const float mean = scale * sum.item[i][j];
      result.out[row * v.width + c] = from_float<T>(factor * mean);
      if (result.partial)
        dot = fmaf(mean, to_float(result.x[b * result.x_batch_stride + r * result.x_row_stride + c]), dot);
    }
    if (result.partial) {
      for (int step = 8; step > 0; step /= 2) dot += __shfl_xor_sync(kAllLanes, dot, step);
    }
    if (threadIdx.x % 16 != 0 || !inside) continue;
    if (result.partial) {
      result.partial[row * col_blocks + col_block] = col_block ? dot : dot + scale * totals[sum.row(i)];
    }
    if (result.total && col_block == 0) result.total[row] = totals[sum.row(i)];
  }
}

// ---- launching, shared with the gradient
// ----------------------------------------------------------------------------------
template <class L>
void launch_normalisers(const LogitMatrix<L>& l, int64_t batch, const float* factor, float* shift, float* scale,
                        void* stream) {
  if (batch * l.rows == 0) return;
  if (l.row_stride == 1 && l.col_stride != 1) {
    const int64_t blocks = (l.rows + 31) / 32;
    launch(column_normalisers_kernel<L>, dim3(static_cast<unsigned>(batch * blocks)), dim3(kSoftThreads), 0, stream, l,
           blocks, factor, shift, scale);
  } else {
    const int64_t warps = kSoftThreads / 32;
    launch(row_normalisers_kernel<L>, dim3(static_cast<unsigned>((batch * l.rows + warps - 1) / warps)),
           dim3(kSoftThreads), 0, stream, l, batch * l.rows, factor, shift, scale);
  }
}

// Channels of a block, by the width.
inline int soft_columns(int64_t width) { return width <= 64 ? 64 : 128; }
inline int64_t soft_column_blocks(int64_t width) {
  return width == 0 ? 1 : (width + soft_columns(width) - 1) / soft_columns(width);
}

// Rows are whole chunks of 16 bytes, aligned to them.
template <class T>
bool wide_rows(const ValueMatrix<T>& v) {
  return (v.batch_stride | v.row_stride | v.width) % kChunk == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
}

// Over tokens, float16 or bfloat16 values.
template <class T, class L>
void launch_aggregate_mma(const LogitMatrix<L>& l, const SoftWeigh& s, const ValueMatrix<T>& v, const float* row_scale,
                          T* out, int64_t batch, void* stream) {
  if (batch * l.rows * v.width == 0) return;
  const int64_t row_blocks = (l.rows + kSoftRows - 1) / kSoftRows;
  const int64_t col_blocks = (v.width + kMmaCols - 1) / kMmaCols;
  launch(soft_aggregate_mma_kernel<T, L>, dim3(static_cast<unsigned>(batch * row_blocks * col_blocks)),
         dim3(kSoftThreads), 0, stream, l, s, v, row_scale, wide_rows(v), out, row_blocks, col_blocks);
}

template <class T, class L>
void launch_aggregate(const LogitMatrix<L>& l, const SoftWeigh& s, const ValueMatrix<T>& v, const SoftResult<T>& result,
                      int64_t batch, void* stream) {
  if (batch * l.rows == 0) return;
  const int64_t row_blocks = (l.rows + kSoftRows - 1) / kSoftRows;
  const int64_t col_blocks = soft_column_blocks(v.width);
  const dim3 grid(static_cast<unsigned>(batch * row_blocks * col_blocks));
  const auto kernel = soft_columns(v.width) == 64 ? soft_aggregate_kernel<T, L, 64> : soft_aggregate_kernel<T, L, 128>;
  launch(kernel, grid, dim3(kSoftThreads), 0, stream, l, s, v, result, row_blocks, col_blocks);
}

// The logits of an op's arguments with targets, or tokens, as rows.
template <class L, class Args>
LogitMatrix<L> logit_matrix(const Args& a, bool rows_are_targets) {
  const L* data = static_cast<const L*>(a.logits);
  if (rows_are_targets) {
    return {data, a.logits_batch_stride, a.logits_target_stride, a.logits_token_stride, a.targets, a.tokens};
  }
  return {data, a.logits_batch_stride, a.logits_token_stride, a.logits_target_stride, a.tokens, a.targets};
}

}  // namespace tk::merge::gpu
