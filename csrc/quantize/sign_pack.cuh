// SPDX-License-Identifier: Apache-2.0
// Groups of equal width follow each other through all rows: a block ballots the signs of its groups into words of
// shared memory, 32 channels a warp at a time, and one thread a group cuts its bits out. Other widths: a thread a
// group.
#pragma once
#include "core/gpu.cuh"
#include "quantize/sign_pack.h"

namespace tk::quantize::gpu {

constexpr int kSignThreads = 256;
constexpr int kSignWords = kSignThreads * kMostBits / 32 + 2;  // a group may read two words past its first

TK_INLINE int64_t ordered_id(uint64_t bits, int width, bool high_first) {
  return static_cast<int64_t>(high_first ? reverse_bits(bits, width) : bits);
}

template <class T>
__global__ void __launch_bounds__(kSignThreads) sign_pack_kernel(SignPackArgs a) {
  TK_SHARED(words, uint32_t[kSignWords]);
  const int bits = a.split.bits;
  const int lane = threadIdx.x % 32;
  const int64_t total = a.rows * a.split.groups;
  const int64_t first = int64_t{blockIdx.x} * kSignThreads;
  const int groups = static_cast<int>(total - first < kSignThreads ? total - first : kSignThreads);
  const T* x = static_cast<const T*>(a.x) + first * bits;
  const int channels = groups * bits;
  for (int word = threadIdx.x / 32; word * 32 < channels + 64; word += kSignThreads / 32) {
    const int c = word * 32 + lane;
    const unsigned signs = __ballot_sync(kAllLanes, c < channels && to_float(x[c < channels ? c : 0]) > 0.0f);
    if (lane == 0) words[word] = signs;
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) >= groups) return;
  const int at = threadIdx.x * bits;
  const uint64_t low = words[at / 32] | uint64_t{words[at / 32 + 1]} << 32;
  const int shift = at % 32;
  const uint64_t high = shift ? uint64_t{words[at / 32 + 2]} << (64 - shift) : 0;
  const uint64_t own = (low >> shift | high) & ((uint64_t{1} << bits) - 1);
  a.ids[first + threadIdx.x] = ordered_id(own, bits, a.split.high_first);
}

template <class T>
__global__ void __launch_bounds__(kSignThreads) sign_pack_widths_kernel(SignPackArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kSignThreads + threadIdx.x;
  if (i >= a.rows * a.split.groups) return;
  const int64_t g = i % a.split.groups;
  const T* x = static_cast<const T*>(a.x) + i / a.split.groups * a.split.channels;
  for (int64_t before = 0; before < g; ++before) x += a.split.widths[before];
  const int width = a.split.widths[g];
  uint64_t own = 0;
  for (int j = 0; j < width; ++j) own |= uint64_t{to_float(x[j]) > 0.0f} << j;
  a.ids[i] = ordered_id(own, width, a.split.high_first);
}

}  // namespace tk::quantize::gpu
