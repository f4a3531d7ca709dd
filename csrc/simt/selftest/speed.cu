// SPDX-License-Identifier: Apache-2.0
// Kernels that do one thing many times, to time the executor with: `_simt.statistics()` counts what they did.
#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

constexpr int kThreads = 256;

__global__ void barriers_kernel(int* out, int rounds) {
  for (int i = 0; i < rounds; ++i) __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = rounds;
}

__global__ void shuffles_kernel(int* out, int rounds) {
  int v = threadIdx.x;
  for (int i = 0; i < rounds; ++i) v += __shfl_xor_sync(0xffffffffu, v, 1 + i % 31);
  out[blockIdx.x * kThreads + threadIdx.x] = v;
}

__global__ void accesses_kernel(int* out, int rounds) {
  TK_SHARED(values, int[kThreads]);
  volatile int* mine = values + threadIdx.x;
  *mine = 0;
  for (int i = 0; i < rounds; ++i) *mine = *mine + i;
  out[blockIdx.x * kThreads + threadIdx.x] = *mine;
}

__global__ void tensor_kernel(int* out, int rounds) {
  float d[4] = {};
  const uint32_t a[4] = {0x3c003c00u, 0u, 0u, 0u};
  const uint32_t b[2] = {0x3c003c00u, 0u};
  for (int i = 0; i < rounds; ++i) mma_m16n8k16<f16_t>(d, a, b);
  out[blockIdx.x * kThreads + threadIdx.x] = static_cast<int>(d[0]);
}

template <void (*kKernel)(int*, int), int kBlocks, int kRounds>
void many() {
  std::vector<int> out(kBlocks * kThreads);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(kKernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, out_, kRounds); });
}

constexpr Case kCases[] = {
    {"speed_threads", &many<barriers_kernel, 400, 0>},   {"speed_barriers", &many<barriers_kernel, 1, 1000>},
    {"speed_shuffles", &many<shuffles_kernel, 1, 1000>}, {"speed_accesses", &many<accesses_kernel, 1, 1000>},
    {"speed_tensor", &many<tensor_kernel, 1, 100>},
};

}  // namespace

std::span<const Case> speed_cases() { return kCases; }

}  // namespace tk::simt::selftest
