// SPDX-License-Identifier: Apache-2.0
// One warp a row: each lane meets every 32nd code of a book.
#pragma once
#include "core/best_column.cuh"
#include "core/gpu.cuh"
#include "quantize/rvq_encode.h"

namespace tk::quantize::gpu {

constexpr int kEncodeThreads = 128;

struct CodeFound {
  float score;
  int64_t code;
};

TK_INLINE bool goes_before(CodeFound x, CodeFound y) {
  return x.score > y.score || (x.score == y.score && x.code < y.code);
}

template <class T>
__device__ inline CodeFound best_code(const RvqEncodeArgs& a, const T* book, const float* residual, int lane) {
  CodeFound best{-kInfinity, INT64_MAX};
  for (int64_t k = lane; k < a.codes_count; k += 32) {
    const T* code = book + k * a.c_row_stride;
    float product = 0;
    float squares = 0;
    for (int64_t d = 0; d < a.width; ++d) {
      const float value = to_float(code[d]);
      product = fmaf(residual[d], value, product);
      squares = fmaf(value, value, squares);
    }
    const float score = a.metric == Metric::cosine ? product * inverse_root(squares) : product - 0.5f * squares;
    if (squares < kInfinity && score > best.score) best = {score, k};
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const CodeFound other{__shfl_xor_sync(kAllLanes, best.score, step), __shfl_xor_sync(kAllLanes, best.code, step)};
    if (goes_before(other, best)) best = other;
  }
  return best;
}

// residual -= code, quantized += code; returns |residual|^2. A lane has every 32nd channel.
template <class T>
__device__ inline float take_code_off(const T* code, int64_t width, bool first, float* residual, float* quantized,
                                      int lane) {
  float squares = 0;
  for (int64_t d = lane; d < width; d += 32) {
    const float value = to_float(code[d]);
    const float left = residual[d] - value;
    residual[d] = left;
    quantized[d] = first ? value : quantized[d] + value;
    squares = fmaf(left, left, squares);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(kAllLanes, squares, step);
  return squares;
}

// residuals (G, N, D) stand in the workspace.
template <class T>
__global__ void __launch_bounds__(kEncodeThreads) rvq_encode_kernel(RvqEncodeArgs a, float* residuals) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * kEncodeThreads + threadIdx.x) / 32;
  if (row >= a.groups * a.rows) return;
  const int64_t g = row / a.rows;
  const int64_t n = row % a.rows;
  const T* x = static_cast<const T*>(a.x) + g * a.x_group_stride + n * a.x_row_stride;
  float* residual = residuals + row * a.width;
  float* quantized = a.quantized + row * a.width;
  const int64_t count = a.n_q ? a.n_q[g * a.n_q_group_stride + n] : a.layers;
  for (int64_t d = lane; d < a.width; d += 32) {
    residual[d] = to_float(x[d]);
    quantized[d] = 0;
  }
  float squares = warp_squares(x, a.width, lane);
  for (int64_t q = 0; q < a.books; ++q) {
    int64_t index = -1;
    float error = 0;
    if (q < count) {
      const T* book = static_cast<const T*>(a.codes) + g * a.c_group_stride + q * a.c_book_stride;
      __syncwarp();
      const CodeFound best = best_code(a, book, residual, lane);
      __syncwarp();
      index = squares < kInfinity && best.score > -kInfinity ? best.code : 0;
      squares = take_code_off(book + index * a.c_row_stride, a.width, q == 0, residual, quantized, lane);
      error = squares < kInfinity ? squares : not_a_number();
    }
    if (lane != 0) continue;
    a.index[row * a.books + q] = index;
    a.error[row * a.books + q] = error;
  }
}

}  // namespace tk::quantize::gpu
