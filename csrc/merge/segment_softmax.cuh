// SPDX-License-Identifier: Apache-2.0
// A group of W warps takes one segment: one warp where segments are short, a block where they are long.
#pragma once
#include "core/gpu.cuh"
#include "merge/segment_softmax.h"

namespace tk::merge::gpu {

constexpr int kSoftmaxThreads = 256;

struct SumOf {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct MaxOrNan {
  __device__ float operator()(float a, float b) const { return b > a || b != b ? b : a; }
};

// Combines a value of every thread of the group in a fixed tree; the result is the same in every thread.
template <int W, class Combine>
__device__ inline float group_reduce(float value, Combine combine, float (&across)[kSoftmaxThreads / 32]) {
  for (int half = 16; half > 0; half /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, half));
  if (W == 1) return value;
  __syncthreads();
  if (threadIdx.x % 32 == 0) across[threadIdx.x / 32] = value;
  __syncthreads();
  value = across[0];
  for (int w = 1; w < W; ++w) value = combine(value, across[w]);
  return value;
}

struct SoftmaxRows {
  const int64_t* offsets;
  int64_t total, tokens, segments, offsets_stride;
};

// The segment of this thread's group: its batch row, its tokens [begin, end). Empty past the last segment.
template <int W>
struct Group {
  int64_t b = 0, begin = 0, end = 0;
  int rank;

  __device__ explicit Group(const SoftmaxRows& rows) : rank(static_cast<int>(threadIdx.x) % (W * 32)) {
    const int64_t i = (int64_t{blockIdx.x} * kSoftmaxThreads + threadIdx.x) / (W * 32);
    if (i >= rows.total) return;
    b = i / rows.segments;
    const int64_t* offset = rows.offsets + b * rows.offsets_stride + i % rows.segments;
    begin = offset[0];
    end = offset[1];
  }
};

template <class T, int W>
__global__ void __launch_bounds__(kSoftmaxThreads)
    segment_softmax_kernel(const T* scores, T* out, SoftmaxRows rows, int64_t scores_stride) {
  TK_SHARED(across, float[kSoftmaxThreads / 32]);
  const Group<W> group(rows);
  const T* x = scores + group.b * scores_stride;
  T* p = out + group.b * rows.tokens;
  float largest = -kInfinity;
  for (int64_t i = group.begin + group.rank; i < group.end; i += W * 32) largest = MaxOrNan()(largest, to_float(x[i]));
  largest = group_reduce<W>(largest, MaxOrNan(), across);
  const bool nothing = largest == -kInfinity;
  float sum = 0.0f;
  for (int64_t i = group.begin + group.rank; i < group.end; i += W * 32) {
    sum += nothing ? 0.0f : expf(to_float(x[i]) - largest);
  }
  sum = group_reduce<W>(sum, SumOf(), across);
  for (int64_t i = group.begin + group.rank; i < group.end; i += W * 32) {
    p[i] = from_float<T>(nothing ? 0.0f : expf(to_float(x[i]) - largest) / sum);
  }
}

template <class T, int W>
__global__ void __launch_bounds__(kSoftmaxThreads)
    segment_softmax_backward_kernel(const T* grad, const T* p, T* out, SoftmaxRows rows, int64_t grad_stride,
                                    int64_t p_stride) {
  TK_SHARED(across, float[kSoftmaxThreads / 32]);
  const Group<W> group(rows);
  const T* g = grad + group.b * grad_stride;
  const T* y = p + group.b * p_stride;
  float sum = 0.0f;
  for (int64_t i = group.begin + group.rank; i < group.end; i += W * 32) {
    sum = fmaf(to_float(y[i]), to_float(g[i]), sum);
  }
  sum = group_reduce<W>(sum, SumOf(), across);
  for (int64_t i = group.begin + group.rank; i < group.end; i += W * 32) {
    out[group.b * rows.tokens + i] = from_float<T>(to_float(y[i]) * (to_float(g[i]) - sum));
  }
}

}  // namespace tk::merge::gpu
