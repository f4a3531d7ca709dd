// SPDX-License-Identifier: Apache-2.0
// One warp a row: the sums, and from them the answer as a combination of the rows read.
#pragma once
#include "core/gpu.cuh"
#include "quantize/rotate_to.h"
#include "quantize/rotation.h"

namespace tk::quantize::gpu {

constexpr int kRotateThreads = 256;

template <class Number>
__device__ __forceinline__ Number rotation_sum(Number x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <class T>
__device__ inline Rotation measure_rotation(const T* x, const T* q, int64_t width, int lane, float eps) {
  float xx = 0;
  float qq = 0;
  float xq = 0;
  for (int64_t d = lane; d < width; d += 32) {
    const float from = to_float(x[d]);
    const float to = to_float(q[d]);
    xx = fmaf(from, from, xx);
    qq = fmaf(to, to, qq);
    xq = fmaf(from, to, xq);
  }
  Rotation r = rotation_of(sqrtf(rotation_sum(xx)), sqrtf(rotation_sum(qq)), rotation_sum(xq), eps);
  if (r.squares < kNearlyOpposite) {
    float squares = 0;
    for (int64_t d = lane; d < width; d += 32) {
      const float sum = to_float(x[d]) * r.inverse_x + to_float(q[d]) * r.inverse_q;
      squares = fmaf(sum, sum, squares);
    }
    r.squares = rotation_sum(squares);
  }
  return r;
}

template <class T>
__global__ void __launch_bounds__(kRotateThreads) rotate_to_kernel(RotateToArgs a) {
  const int lane = threadIdx.x % 32;
  const int64_t n = (int64_t{blockIdx.x} * kRotateThreads + threadIdx.x) / 32;
  if (n >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + n * a.width;
  const T* q = static_cast<const T*>(a.q) + n * a.width;
  T* out = static_cast<T*>(a.out) + n * a.width;
  const Combination c = forward_of(measure_rotation(x, q, a.width, lane, a.eps), a.eps);
  for (int64_t d = lane; d < a.width; d += 32) {
    out[d] = from_float<T>(fmaf(c.along_x, to_float(x[d]), c.along_q * to_float(q[d])));
  }
}

// In double precision: the direction of u + v hangs on what cancels.
template <class T>
__device__ inline void reflect_opposite(const T* grad, const T* x, const T* q, int64_t width, int lane, double eps,
                                        T* out) {
  double xx = 0;
  double qq = 0;
  for (int64_t d = lane; d < width; d += 32) {
    xx += static_cast<double>(to_float(x[d])) * to_float(x[d]);
    qq += static_cast<double>(to_float(q[d])) * to_float(q[d]);
  }
  const double norm_x = sqrt(rotation_sum(xx));
  const double norm_q = sqrt(rotation_sum(qq));
  const double n_x = norm_x < eps ? eps : norm_x;
  const double n_q = norm_q < eps ? eps : norm_q;
  double squares = 0;
  double along_v = 0;
  double along_sum = 0;
  for (int64_t d = lane; d < width; d += 32) {
    const double v = to_float(q[d]) / n_q;
    const double sum = to_float(x[d]) / n_x + v;
    squares += sum * sum;
    along_v += to_float(grad[d]) * v;
    along_sum += to_float(grad[d]) * sum;
  }
  squares = rotation_sum(squares);
  const double of_v = 2 * rotation_sum(along_v);
  const double of_sum = 2 * rotation_sum(along_sum) / (squares < eps * eps ? eps * eps : squares);
  for (int64_t d = lane; d < width; d += 32) {
    const double u = to_float(x[d]) / n_x;
    const double turned = to_float(grad[d]) + of_v * u - of_sum * (u + to_float(q[d]) / n_q);
    out[d] = from_float<T>(static_cast<float>(norm_q / n_x * turned));
  }
}

template <class T>
__global__ void __launch_bounds__(kRotateThreads) rotate_to_backward_kernel(RotateToBackwardArgs a) {
  const int lane = threadIdx.x % 32;
  const int64_t n = (int64_t{blockIdx.x} * kRotateThreads + threadIdx.x) / 32;
  if (n >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + n * a.width;
  const T* q = static_cast<const T*>(a.q) + n * a.width;
  const T* grad = static_cast<const T*>(a.grad) + n * a.width;
  T* out = static_cast<T*>(a.grad_x) + n * a.width;
  const Rotation r = measure_rotation(x, q, a.width, lane, a.eps);
  if (r.squares < kOpposite) return reflect_opposite(grad, x, q, a.width, lane, a.eps, out);
  float along_v = 0;
  float along_sum = 0;
  for (int64_t d = lane; d < a.width; d += 32) {
    const float g = to_float(grad[d]);
    const float v = to_float(q[d]) * r.inverse_q;
    along_v = fmaf(g, v, along_v);
    along_sum = fmaf(g, fmaf(to_float(x[d]), r.inverse_x, v), along_sum);
  }
  const Reflection f = backward_of(r, rotation_sum(along_v), rotation_sum(along_sum), a.eps);
  for (int64_t d = lane; d < a.width; d += 32) {
    const float u = to_float(x[d]) * r.inverse_x;
    const float sum = fmaf(to_float(q[d]), r.inverse_q, u);
    out[d] = from_float<T>(f.scale * (to_float(grad[d]) + f.along_u * u - f.along_sum * sum));
  }
}

}  // namespace tk::quantize::gpu
