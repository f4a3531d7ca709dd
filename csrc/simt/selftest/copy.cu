// SPDX-License-Identifier: Apache-2.0
// cp.async: a double-buffered stream through shared memory, and every way to get it wrong.
#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

enum class Bug { none, no_wait, wait_too_late, no_barrier_after_wait, no_barrier_before_reuse, never_waited };

constexpr int kThreads = 64;
constexpr int kPerCopy = 4;  // floats
constexpr int kTile = kThreads * kPerCopy;

__device__ inline void fetch(float* stage, const float* x, int tile, int n) {
  const int i = tile * kTile + static_cast<int>(threadIdx.x) * kPerCopy;
  cp_async16_or_zero(stage + threadIdx.x * kPerCopy, x + (i < n ? i : 0), i < n);
  cp_async_commit();
}

// out[i] += the mirrored element of every tile, summed over tiles.
template <Bug kBug>
__global__ void stream_kernel(const float* x, float* out, int n, int tiles) {
  TK_SHARED(stage, float[2][kTile]);
  const int t = threadIdx.x;
  float sum = 0.0f;
  fetch(stage[0], x, 0, n);
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) fetch(stage[(tile + 1) % 2], x, tile + 1, n);
    if (kBug == Bug::wait_too_late) {
      cp_async_wait<1>();  // right but for the last tile
    } else if (kBug != Bug::no_wait && kBug != Bug::never_waited) {
      if (tile + 1 < tiles) {
        cp_async_wait<1>();
      } else {
        cp_async_wait<0>();
      }
    }
    if (kBug != Bug::no_barrier_after_wait) __syncthreads();
    if (kBug != Bug::never_waited) {
      for (int k = 0; k < kPerCopy; ++k) sum += stage[tile % 2][(kThreads - 1 - t) * kPerCopy + k];
    }
    if (kBug != Bug::no_barrier_before_reuse) __syncthreads();
  }
  if (kBug == Bug::no_wait) cp_async_wait<0>();
  out[t] = sum;
}

template <Bug kBug>
void stream() {
  constexpr int tiles = kBug == Bug::never_waited ? 1 : 3;
  constexpr int n = tiles * kTile - 40;  // the last copies are zeros
  std::vector<float> x(n), out(kThreads);
  for (int i = 0; i < n; ++i) x[i] = sample(i);
  Arguments arguments;
  const float* x_ = arguments.in("x", x);
  float* out_ = arguments.out("out", out);
  arguments.run([&] { launch(stream_kernel<kBug>, dim3(1), dim3(kThreads), 0, nullptr, x_, out_, n, tiles); });
  for (int t = 0; t < kThreads; ++t) {
    float sum = 0.0f;
    for (int tile = 0; tile < tiles; ++tile) {
      for (int k = 0; k < kPerCopy; ++k) {
        const int i = tile * kTile + (kThreads - 1 - t) * kPerCopy + k;
        sum += i < n ? x[i] : 0.0f;
      }
    }
    expect(out[t] == sum, "stream through shared memory");
  }
}

template <int kShared, int kGlobal, bool kToShared>
__global__ void one_copy_kernel(const float* x, float* out) {
  TK_SHARED(stage, float[64]);
  float* to = kToShared ? stage + kShared : out;
  if (threadIdx.x == 0) cp_async16(to, x + kGlobal);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = stage[threadIdx.x % 4];
}

template <int kShared, int kGlobal, bool kToShared>
void one_copy() {
  std::vector<float> x(64), out(32);
  Arguments arguments;
  const float* x_ = arguments.in("x", x);
  float* out_ = arguments.out("out", out);
  arguments.run([&] { launch(one_copy_kernel<kShared, kGlobal, kToShared>, dim3(1), dim3(32), 0, nullptr, x_, out_); });
}

constexpr Case kCases[] = {
    {"ok_double_buffer", &stream<Bug::none>},
    {"bug_no_copy_wait", &stream<Bug::no_wait>},
    {"bug_copy_wait_too_late", &stream<Bug::wait_too_late>},
    {"bug_no_barrier_after_copy", &stream<Bug::no_barrier_after_wait>},
    {"bug_no_barrier_before_refill", &stream<Bug::no_barrier_before_reuse>},
    {"bug_copy_in_flight_at_exit", &stream<Bug::never_waited>},
    {"ok_one_copy", &one_copy<0, 4, true>},
    {"bug_copy_to_misaligned", &one_copy<1, 4, true>},
    {"bug_copy_from_misaligned", &one_copy<0, 1, true>},
    {"bug_copy_past_end", &one_copy<0, 64, true>},
    {"bug_copy_past_shared_end", &one_copy<64, 0, true>},
    {"bug_copy_to_global", &one_copy<0, 0, false>},
};

}  // namespace

std::span<const Case> copy_cases() { return kCases; }

}  // namespace tk::simt::selftest
