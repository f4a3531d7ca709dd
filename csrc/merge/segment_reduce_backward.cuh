// SPDX-License-Identifier: Apache-2.0
// Modes sum and mean: one warp per token scales a row of grad and takes a dot product; a mean first needs the mass of
// every segment, and a second pass over its members to centre the gradients of the weights. Mode amax: one warp finds
// the winners of a segment over a tile of channels.
#pragma once
#include "core/gpu.cuh"
#include "merge/segment_members.cuh"
#include "merge/segment_reduce_backward.h"

namespace tk::merge::gpu {

constexpr int kBackwardWarps = 8;
constexpr int kBackwardThreads = kBackwardWarps * 32;

template <class T>
struct BackwardRows {
  const T* grad;
  const T* x;  // or null
  SegmentIndex index;
  Members members;         // unless the mode is sum
  const float* weight;     // or null
  const float* grad_mass;  // or null
  T* grad_x;
  float* grad_weight;  // or null
  float* divisor;      // (batch, segments) mass, or null in mode sum
  int64_t batch, tokens, segments, width;
  int64_t grad_batch_stride, grad_row_stride, x_batch_stride, x_row_stride;

  __device__ float weight_of(int64_t b, int64_t n) const { return weight ? weight[b * tokens + n] : 1.0f; }
};

__device__ inline int64_t warp_index() { return (int64_t{blockIdx.x} * kBackwardThreads + threadIdx.x) / 32; }

template <class V>
__device__ inline V warp_sum(V value) {
  for (int half = 16; half > 0; half /= 2) value += __shfl_xor_sync(kAllLanes, value, half);
  return value;
}

// One warp per segment.
template <class T>
__global__ void __launch_bounds__(kBackwardThreads) segment_mass_kernel(BackwardRows<T> a) {
  const int lane = threadIdx.x % 32;
  const int64_t row = warp_index();
  if (row >= a.batch * a.segments) return;
  const int64_t b = row / a.segments;
  const int64_t* offsets = a.members.offsets_of(b) + row % a.segments;
  double mass = 0;
  for (int64_t i = offsets[0] + lane; i < offsets[1]; i += 32) mass += a.weight_of(b, a.members.token(b, i));
  mass = warp_sum(mass);
  if (lane == 0) a.divisor[row] = static_cast<float>(mass);
}

// One warp per token.
template <class T, int P>
__global__ void __launch_bounds__(kBackwardThreads) segment_grad_kernel(BackwardRows<T> a) {
  using Part = Channels<T, P>;
  const int lane = threadIdx.x % 32;
  const int64_t row = warp_index();
  if (row >= a.batch * a.tokens) return;
  const int64_t b = row / a.tokens;
  const int64_t n = row % a.tokens;
  const int64_t s = warp_segment_of(a.index, a.segments, b, n);
  const float divisor = s < 0 ? 0.0f : a.divisor ? a.divisor[b * a.segments + s] : 1.0f;
  const float scale = divisor == 0.0f ? 0.0f : a.weight_of(b, n) / divisor;
  const bool constant = divisor == 0.0f;  // no segment, or a mean over nothing
  const bool with_weight = a.grad_weight && !constant;
  const T* grad = a.grad + b * a.grad_batch_stride + s * a.grad_row_stride;
  const T* x = a.x + b * a.x_batch_stride + n * a.x_row_stride;
  float dot = 0.0f;
  for (int64_t c = lane * P; c < a.width; c += 32 * P) {
    const Part g = constant ? Part{} : *reinterpret_cast<const Part*>(grad + c);
    const Part value = with_weight ? *reinterpret_cast<const Part*>(x + c) : Part{};
    Part result;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      dot = fmaf(to_float(value.item[p]), to_float(g.item[p]), dot);
      result.item[p] = from_float<T>(constant ? 0.0f : scale * to_float(g.item[p]));
    }
    *reinterpret_cast<Part*>(a.grad_x + row * a.width + c) = result;
  }
  if (!a.grad_weight) return;
  dot = warp_sum(dot);
  // A mean adds grad_mass when it centres.
  const float from_mass = a.grad_mass && s >= 0 && !a.divisor ? a.grad_mass[b * a.segments + s] : 0.0f;
  if (lane == 0) a.grad_weight[row] = (with_weight ? dot : 0.0f) + from_mass;
}

// Mode mean, one warp per segment: (x . g) becomes (x . g - out . g) / mass.
template <class T>
__global__ void __launch_bounds__(kBackwardThreads) segment_centre_kernel(BackwardRows<T> a) {
  const int lane = threadIdx.x % 32;
  const int64_t row = warp_index();
  if (row >= a.batch * a.segments) return;
  const int64_t b = row / a.segments;
  const int64_t* offsets = a.members.offsets_of(b) + row % a.segments;
  float* grad_weight = a.grad_weight + b * a.tokens;
  const float divisor = a.divisor[row];
  const float from_mass = a.grad_mass ? a.grad_mass[row] : 0.0f;
  double total = 0;
  for (int64_t i = offsets[0] + lane; i < offsets[1]; i += 32) {
    const int64_t n = a.members.token(b, i);
    total += static_cast<double>(a.weight_of(b, n)) * grad_weight[n];
  }
  total = warp_sum(total);
  for (int64_t i = offsets[0] + lane; i < offsets[1]; i += 32) {
    const int64_t n = a.members.token(b, i);
    const double centred = divisor == 0.0f ? 0.0 : (grad_weight[n] - total / divisor) / divisor;
    grad_weight[n] = static_cast<float>(centred) + from_mass;
  }
}

template <class T>
__global__ void __launch_bounds__(kBackwardThreads) clear_rows_kernel(T* rows, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kBackwardThreads + threadIdx.x;
  if (i < count) rows[i] = T{};
}

template <class T>
__global__ void __launch_bounds__(kBackwardThreads) segment_winner_kernel(BackwardRows<T> a) {
  const int lane = threadIdx.x % 32;
  const int64_t tiles = (a.width + 31) / 32;
  const int64_t row = warp_index() / tiles;
  const int64_t c = warp_index() % tiles * 32 + lane;
  if (row >= a.batch * a.segments || c >= a.width) return;
  const int64_t b = row / a.segments;
  const int64_t* offsets = a.members.offsets_of(b) + row % a.segments;
  if (offsets[0] >= offsets[1]) return;
  const T* x = a.x + b * a.x_batch_stride + c;
  float best = -kInfinity;
  int64_t winner = a.members.token(b, offsets[0]);
  for (int64_t i = offsets[0]; i < offsets[1]; ++i) {
    const int64_t n = a.members.token(b, i);
    const float value = to_float(x[n * a.x_row_stride]);
    const bool takes = value > best || (value != value && best == best);
    best = takes ? value : best;
    winner = takes ? n : winner;
  }
  const T* grad = a.grad + b * a.grad_batch_stride + row % a.segments * a.grad_row_stride;
  a.grad_x[(b * a.tokens + winner) * a.width + c] = grad[c];
}

}  // namespace tk::merge::gpu
