// SPDX-License-Identifier: Apache-2.0
// One warp owns one output row: it scans the indices of its batch in order, 32 at a time, and adds up the rows that
// name it, so the order of the additions is fixed without sorting. The first kListed matches are kept in shared memory;
// a longer list is scanned again for every block of channels.
#pragma once
#include "core/gpu.cuh"
#include "merge/scatter_add_rows.h"

namespace tk::merge::gpu {

constexpr int kAddWarps = 8;
constexpr int kListed = 64;

// P neighbouring elements, moved at once.
template <class T, int P>
struct alignas(sizeof(T) * P) Pack {
  T item[P];
};

template <class T>
struct AddRows {
  const T* y;
  const int64_t* index;
  const float* weight;  // or null
  T* out;
  int64_t total, rows, picks, width, batch_stride, row_stride;
};

template <class T, int P>
__device__ inline void add_row(const AddRows<T>& a, int64_t b, int64_t m, int64_t c, float (&sum)[P]) {
  const auto pack = *reinterpret_cast<const Pack<T, P>*>(a.y + b * a.batch_stride + m * a.row_stride + c);
  const float weight = a.weight ? a.weight[b * a.picks + m] : 1.0f;
#pragma unroll
  for (int i = 0; i < P; ++i) sum[i] = fmaf(weight, to_float(pack.item[i]), sum[i]);
}

// Calls add_row for every match in ascending m. All lanes scan; `active` lanes add.
template <class T, int P>
__device__ inline void add_scanned(const AddRows<T>& a, int64_t b, int64_t n, int64_t c, bool active, float (&sum)[P]) {
  const int lane = threadIdx.x % 32;
  for (int64_t start = 0; start < a.picks; start += 32) {
    const bool match = start + lane < a.picks && a.index[b * a.picks + start + lane] == n;
    for (unsigned matches = __ballot_sync(kAllLanes, match); matches; matches &= matches - 1) {
      if (active) add_row<T, P>(a, b, start + __ffs(static_cast<int>(matches)) - 1, c, sum);
    }
  }
}

// Returns the number of matches; the first kListed are in `list`.
template <class T>
__device__ inline int64_t list_matches(const AddRows<T>& a, int64_t b, int64_t n, int64_t* list) {
  const int lane = threadIdx.x % 32;
  int64_t found = 0;
  for (int64_t start = 0; start < a.picks; start += 32) {
    const bool match = start + lane < a.picks && a.index[b * a.picks + start + lane] == n;
    const unsigned matches = __ballot_sync(kAllLanes, match);
    const int64_t place = found + __popc(matches & ((1u << lane) - 1u));
    if (match && place < kListed) list[place] = start + lane;
    found += __popc(matches);
  }
  __syncwarp();
  return found;
}

template <class T, int P>
__global__ void __launch_bounds__(kAddWarps * 32) scatter_add_rows_kernel(AddRows<T> a) {
  TK_SHARED(lists, int64_t[kAddWarps][kListed]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t row = int64_t{blockIdx.x} * kAddWarps + warp;
  if (row >= a.total) return;
  const int64_t b = row / a.rows;
  const int64_t n = row % a.rows;
  const int64_t found = list_matches(a, b, n, lists[warp]);
  for (int64_t block = 0; block < a.width; block += 32 * P) {
    const int64_t c = block + lane * P;
    const bool active = c < a.width;
    float sum[P] = {};
    if (found > kListed) {
      add_scanned<T, P>(a, b, n, c, active, sum);
    } else if (active) {
      for (int64_t k = 0; k < found; ++k) add_row<T, P>(a, b, lists[warp][k], c, sum);
    }
    if (!active) continue;
    Pack<T, P> rounded;
#pragma unroll
    for (int i = 0; i < P; ++i) rounded.item[i] = from_float<T>(sum[i]);
    *reinterpret_cast<Pack<T, P>*>(a.out + row * a.width + c) = rounded;
  }
}

template <class T>
struct GatherBack {
  const T* grad;
  const T* y;
  const int64_t* index;
  const float* weight;
  T* grad_y;
  float* grad_weight;
  int64_t total, rows, picks, width, grad_batch_stride, grad_row_stride, y_batch_stride, y_row_stride;
};

// One warp per m: a scaled copy and a dot product.
template <class T>
__global__ void __launch_bounds__(kAddWarps * 32) scatter_add_rows_backward_kernel(GatherBack<T> a) {
  const int lane = threadIdx.x % 32;
  const int64_t i = int64_t{blockIdx.x} * kAddWarps + threadIdx.x / 32;
  if (i >= a.total) return;
  const int64_t b = i / a.picks;
  const int64_t row = a.index[i];
  const bool valid = row >= 0 && row < a.rows;
  const T* grad = a.grad + b * a.grad_batch_stride + row * a.grad_row_stride;
  const T* y = a.y + b * a.y_batch_stride + i % a.picks * a.y_row_stride;
  float dot = 0.0f;
  for (int64_t c = lane; c < a.width; c += 32) {
    const float g = valid ? to_float(grad[c]) : 0.0f;
    dot = fmaf(to_float(y[c]), g, dot);
    a.grad_y[i * a.width + c] = from_float<T>(a.weight[i] * g);
  }
  for (int half = 16; half > 0; half /= 2) dot += __shfl_xor_sync(kAllLanes, dot, half);
  if (lane == 0) a.grad_weight[i] = dot;
}

}  // namespace tk::merge::gpu
