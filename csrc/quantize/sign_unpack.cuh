// SPDX-License-Identifier: Apache-2.0
// One thread a channel; where groups are not equally wide, one thread a group.
#pragma once
#include "core/gpu.cuh"
#include "quantize/sign_unpack.h"

namespace tk::quantize::gpu {

constexpr int kUnpackThreads = 256;

TK_INLINE float sign_of(int64_t id, int j, int width, const SignUnpackArgs& a) {
  return id >> (a.split.high_first ? width - 1 - j : j) & 1 ? a.scale : -a.scale;
}

template <class T>
__global__ void __launch_bounds__(kUnpackThreads) sign_unpack_kernel(SignUnpackArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kUnpackThreads + threadIdx.x;
  if (i >= a.rows * a.split.channels) return;
  const int bits = a.split.bits;
  static_cast<T*>(a.x)[i] = from_float<T>(sign_of(a.ids[i / bits], static_cast<int>(i % bits), bits, a));
}

template <class T>
__global__ void __launch_bounds__(kUnpackThreads) sign_unpack_widths_kernel(SignUnpackArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kUnpackThreads + threadIdx.x;
  if (i >= a.rows * a.split.groups) return;
  const int64_t g = i % a.split.groups;
  T* x = static_cast<T*>(a.x) + i / a.split.groups * a.split.channels;
  for (int64_t before = 0; before < g; ++before) x += a.split.widths[before];
  const int width = a.split.widths[g];
  for (int j = 0; j < width; ++j) x[j] = from_float<T>(sign_of(a.ids[i], j, width, a));
}

}  // namespace tk::quantize::gpu
