// SPDX-License-Identifier: Apache-2.0
// One thread reads a part of the text, from its first certain boundary to the first of a later part, and sets a byte
// for every byte of it: 1 where a piece ends. The prefix sums of these marks are the places of the ends.
#pragma once
#include "bpe/safe_cut.h"
#include "bpe/scan.h"
#include "bpe/split.h"
#include "core/prefix_sum.cuh"

namespace tk::bpe::gpu {

constexpr int kSplitThreads = 256;
constexpr int64_t kSplitPart = 64;  // bytes of text a thread, unless the caller wants others

// Every byte belongs to the thread of the last certain boundary at or before it.
template <Pattern pattern>
__global__ void __launch_bounds__(kSplitThreads, 4) mark_pieces_kernel(SplitArgs a, uint8_t* mark) {
  const int64_t from = (int64_t{blockIdx.x} * kSplitThreads + threadIdx.x) * a.part;
  if (from >= a.size) return;
  const uint8_t* end = a.text + a.size;
  const uint8_t* high = a.size - from > a.part ? a.text + from + a.part : end;
  const uint8_t* p = safe_cut(pattern, a.text + from, high, a.text, end);
  if (p == high) return;
  const uint8_t* stop = safe_cut(pattern, high, end, a.text, end);
  while (p < stop) {
    const uint8_t* next = Scanner<pattern>::next(p, end);
    for (; p < next; ++p) mark[p - a.text] = p + 1 == next;
  }
}

struct MarkSource {
  const uint8_t* mark;
  __device__ unsigned long long operator()(int64_t i) const { return mark[i]; }
};

struct EndSink {
  const uint8_t* mark;
  int64_t* ends;
  __device__ void operator()(int64_t i, unsigned long long before) const {
    if (mark[i]) ends[before] = i + 1;
  }
};

}  // namespace tk::bpe::gpu
