// SPDX-License-Identifier: Apache-2.0
// Five launches at most: the normalisers, the constants of every target, the gradients of the tokens (the tile loop of
// soft_aggregate with tokens as rows), over targets the centres from their per-channel-block parts, and the gradients
// of the logits, a block a tile of 64 targets and 64 tokens.
#pragma once
#include "merge/soft_aggregate.cuh"
#include "merge/soft_aggregate_backward.h"
#include "merge/soft_mma.cuh"

namespace tk::merge::gpu {

// share[i] and offset[i], a and e of the contract. One warp a target.
template <class T>
__global__ void __launch_bounds__(kSoftThreads)
    soft_constants_kernel(SoftAggregateBackwardArgs a, float* share, float* offset) {
  const int lane = threadIdx.x % 32;
  const int64_t i = (int64_t{blockIdx.x} * kSoftThreads + threadIdx.x) / 32;
  if (i >= a.batch * a.targets) return;
  const T* grad =
      static_cast<const T*>(a.grad_y) + i / a.targets * a.grad_batch_stride + i % a.targets * a.grad_row_stride;
  const T* y = static_cast<const T*>(a.y) + i * a.width;
  float along = 0.0f;
  for (int64_t c = lane; c < a.width; c += 32) along = fmaf(to_float(grad[c]), to_float(y[c]), along);
  for (int step = 16; step > 0; step /= 2) along += __shfl_xor_sync(kAllLanes, along, step);
  if (lane != 0) return;
  share[i] = a.mass_out ? inverse(a.mass_out[i]) : 1.0f;
  offset[i] = (a.grad_mass_out ? a.grad_mass_out[i] : 0.0f) - share[i] * along;
}

// centre[j] = sum of its parts, in order.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    soft_centres_kernel(const float* partial, int64_t parts, float* centre, int64_t total) {
  const int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= total) return;
  float sum = 0.0f;
  for (int64_t p = 0; p < parts; ++p) sum += partial[j * parts + p];
  centre[j] = sum;
}

// shift and inverse have one entry a target or, over targets, one a token; centre is null over tokens.
struct LogitConstants {
  const float* shift;
  const float* inverse;
  const float* share;
  const float* offset;
  const float* centre;
};

// tile[k][r] = value[r0 + r, c0 + k]: rows become columns.
template <class T>
__device__ inline void fill_transposed(const ValueMatrix<T>& v, int64_t b, int64_t r0, int64_t c0,
                                       float (&tile)[kSoftDepth][kSoftPitch]) {
  const T* from = v.data + b * v.batch_stride;
  for (int i = threadIdx.x; i < kSoftDepth * kSoftRows; i += kSoftThreads) {
    const int r = run_row(i);
    const int k = run_depth(i);
    const bool inside = r0 + r < v.rows && c0 + k < v.width;
    tile[k][r] = inside ? to_float(from[(r0 + r) * v.row_stride + c0 + k]) : 0.0f;
  }
}

// One entry of grad_logits from the product g[i] . x[j].
template <class L>
__device__ inline void write_logit(const LogitMatrix<L>& l, const LogitConstants& k, const float* mass, int64_t b,
                                   int64_t i, int64_t j, float product, L* out) {
  if (i >= l.rows || j >= l.cols) return;
  const int64_t target = b * l.rows + i;
  const int64_t token = b * l.cols + j;
  const int64_t sum = k.centre ? token : target;
  const float logit = to_float(l.data[b * l.batch_stride + i * l.row_stride + j * l.col_stride]);
  const float weight = expf(logit - k.shift[sum]) * k.inverse[sum] * (mass ? mass[token] : 1.0f);
  const float d = fmaf(k.share[target], product, k.offset[target]);
  out[target * l.cols + j] = from_float<L>(weight * (k.centre ? d - k.centre[token] : d));
}

template <class T, class L>
__global__ void __launch_bounds__(kSoftThreads)
    soft_logits_kernel(LogitMatrix<L> l, ValueMatrix<T> grad, ValueMatrix<T> x, LogitConstants k, const float* mass,
                       L* out, int64_t row_blocks, int64_t col_blocks) {
  TK_SHARED(left, float[kSoftDepth][kSoftPitch]);
  TK_SHARED(right, float[kSoftDepth][kSoftPitch]);
  const int64_t b = blockIdx.x / col_blocks / row_blocks;
  const int64_t i0 = blockIdx.x / col_blocks % row_blocks * kSoftRows;
  const int64_t j0 = blockIdx.x % col_blocks * kSoftRows;
  SoftBlock<kSoftRows> product;
  for (int64_t c0 = 0; c0 < x.width; c0 += kSoftDepth) {
    fill_transposed(grad, b, i0, c0, left);
    fill_transposed(x, b, j0, c0, right);
    __syncthreads();
    multiply_add<kSoftRows>(left, right, product);
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      write_logit(l, k, mass, b, i0 + product.row(r), j0 + product.col(c), product.item[r][c], out);
    }
  }
}

// The same on tensor cores, for float16 and bfloat16: the products are of the values as they are.
template <class T, class L>
__global__ void __launch_bounds__(kSoftThreads)
    soft_logits_mma_kernel(LogitMatrix<L> l, ValueMatrix<T> grad, ValueMatrix<T> x, LogitConstants k, const float* mass,
                           bool wide, L* out, int64_t row_blocks, int64_t col_blocks) {
  TK_SHARED(left, T[kSoftRows][kMmaPitch]);
  TK_SHARED(right, T[kSoftRows][kMmaPitch]);
  const int64_t b = blockIdx.x / col_blocks / row_blocks;
  const int64_t i0 = blockIdx.x / col_blocks % row_blocks * kSoftRows;
  const int64_t j0 = blockIdx.x % col_blocks * kSoftRows;
  DotTile<T> product;
  for (int64_t c0 = 0; c0 < x.width; c0 += kMmaDepth) {
    fill_chunks<T, kSoftRows, kMmaDepth, kMmaPitch>(grad, b, i0, c0, wide, left);
    fill_chunks<T, kSoftRows, kMmaDepth, kMmaPitch>(x, b, j0, c0, wide, right);
    __syncthreads();
    product.add(left, right);
    __syncthreads();
  }
#pragma unroll
  for (int n = 0; n < DotTile<T>::kTiles; ++n) {
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      write_logit(l, k, mass, b, i0 + product.row(d / 2), j0 + product.col(n, d % 2), product.item[n][d], out);
    }
  }
}

}  // namespace tk::merge::gpu
