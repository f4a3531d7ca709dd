// SPDX-License-Identifier: Apache-2.0
// Between blocks: nothing orders them inside a launch; atomics and separate launches are the way.
#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

constexpr int kBlocks = 5;
constexpr int kThreads = 64;

template <void (*kKernel)(int*)>
std::vector<int> on_blocks(int size = kBlocks * kThreads) {
  std::vector<int> out(size);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(kKernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, out_); });
  return out;
}

template <void (*kKernel)(int*)>
void fails() {
  on_blocks<kKernel>();
}

__global__ void cross_store_kernel(int* out) {
  out[blockIdx.x * kThreads + threadIdx.x] = 1;
  if (threadIdx.x == 0) out[0] = 1;
}

__global__ void cross_read_kernel(int* out) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  out[i] = 1;
  if (blockIdx.x > 0 && threadIdx.x == 0) out[i] = out[i - 1];
}

// The reader comes first in a forward run, and after a read of the writing block's own.
__global__ void cross_overwrite_kernel(int* out) {
  const int first = out[0] + static_cast<int>(threadIdx.x) * 0;
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (i > 0) out[i] = first;
  if (blockIdx.x == kBlocks - 1 && threadIdx.x == 0) out[0] = 1;
}

__global__ void fill_kernel(int* out, int value) { out[threadIdx.x] = value; }

template <bool kAtomic>
__global__ void histogram_kernel(int* bins) {
  const int bin = static_cast<int>(blockIdx.x * 7 + threadIdx.x) % 8;
  if (kAtomic) {
    atomicAdd(bins + bin, 1);
  } else {
    ++bins[bin];
  }
}

template <bool kAtomic>
void histogram() {
  std::vector<int> bins(8);
  Arguments arguments;
  int* bins_ = arguments.out("bins", bins);
  arguments.run([&] {
    launch(fill_kernel, dim3(1), dim3(8), 0, nullptr, bins_, 0);
    launch(histogram_kernel<kAtomic>, dim3(kBlocks), dim3(kThreads), 0, nullptr, bins_);
  });
  for (const int count : bins) expect(count == kBlocks * kThreads / 8, "histogram");
}

// Counts in shared memory first, reads them after a barrier, and merges by atomics.
__global__ void shared_histogram_kernel(int* bins) {
  TK_SHARED(counts, int[8]);
  const int t = threadIdx.x;
  if (t < 8) counts[t] = 0;
  __syncthreads();
  atomicAdd(counts + t % 8, 1);
  __syncthreads();
  if (t < 8) atomicAdd(bins + t, counts[t]);
}

void shared_histogram() {
  std::vector<int> bins(8);
  Arguments arguments;
  int* bins_ = arguments.out("bins", bins);
  arguments.run([&] {
    launch(fill_kernel, dim3(1), dim3(8), 0, nullptr, bins_, 0);
    launch(shared_histogram_kernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, bins_);
  });
  for (const int count : bins) expect(count == kBlocks * kThreads / 8, "histogram in shared memory");
}

// Reading a counter without an atomic while others still add to it.
__global__ void counter_read_kernel(int* out) {
  TK_SHARED(count, int[1]);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(count, 1);
  out[blockIdx.x * kThreads + threadIdx.x] = count[0];
}

// The first thread clears the counter too late for the others, if not for itself.
__global__ void late_clear_kernel(int* out) {
  TK_SHARED(count, int[1]);
  if (threadIdx.x == 0) count[0] = 0;
  atomicAdd(count, 1);
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = count[0];
}

// Added in the order in which blocks happen to come.
__global__ void float_sum_kernel(float* sum) {
  if (threadIdx.x == 0) atomicAdd(sum, blockIdx.x == 0 ? 1.0e8f : blockIdx.x == 4 ? -1.0e8f : 1.0f);
}

__global__ void zero_kernel(float* sum) { sum[0] = 0.0f; }

void float_sum() {
  std::vector<float> sum(1);
  Arguments arguments;
  float* sum_ = arguments.out("sum", sum);
  arguments.run([&] {
    launch(zero_kernel, dim3(1), dim3(1), 0, nullptr, sum_);
    launch(float_sum_kernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, sum_);
  });
}

__global__ void ticket_kernel(int* out) {
  TK_SHARED(next, int[1]);
  if (threadIdx.x == 0) next[0] = 0;
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = atomicAdd(next, 1);  // who gets which number is a matter of order
}

// Waiting for another thread in a loop: it never gets its turn.
__global__ void spin_kernel(int* out) {
  TK_SHARED(flag, int[1]);
  if (threadIdx.x == 0) flag[0] = 0;
  __syncthreads();
  if (threadIdx.x % 2 == 0) {
    while (*const_cast<volatile int*>(flag) == 0) continue;
  } else {
    atomicExch(flag, 1);
  }
  out[blockIdx.x * kThreads + threadIdx.x] = 1;
}

// The integer operations, each by 64 threads on one address.
__global__ void atomics_kernel(unsigned* out) {
  const unsigned t = threadIdx.x;
  atomicMin(out + 0, t + 3);
  atomicMax(out + 1, t + 3);
  atomicOr(out + 2, 1u << t % 32);
  atomicAnd(out + 3, ~(1u << t % 16));
  atomicXor(out + 4, 1u << t % 32);
  atomicCAS(out + 5, t == 9 ? 0u : 1000u + t, 77u);
  atomicAdd(out + 6, t);
  if (t == 0) atomicExch(out + 7, 5u);
}

__global__ void start_kernel(unsigned* out) {
  const unsigned start[] = {100u, 0u, 0u, 0xffffffffu, 0u, 0u, 0u, 0u};
  out[threadIdx.x] = start[threadIdx.x];
}

void atomics() {
  std::vector<unsigned> out(8);
  Arguments arguments;
  unsigned* out_ = arguments.out("out", out);
  arguments.run([&] {
    launch(start_kernel, dim3(1), dim3(8), 0, nullptr, out_);
    launch(atomics_kernel, dim3(1), dim3(kThreads), 0, nullptr, out_);
  });
  const std::vector<unsigned> right{3u, 66u, 0xffffffffu, 0xffff0000u, 0u, 77u, 2016u, 5u};
  expect(out == right, "atomics");
}

// Launches of one stream are ordered: the second may read what all blocks of the first wrote.
__global__ void squares_kernel(int* squares) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  squares[i] = i * i;
}

__global__ void reverse_kernel(const int* squares, int* out) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  out[i] = squares[kBlocks * kThreads - 1 - i];
}

void two_launches() {
  constexpr int n = kBlocks * kThreads;
  std::vector<int> out(n);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  int* squares = arguments.workspace<int>(n);
  arguments.run([&] {
    launch(squares_kernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, squares);
    launch(reverse_kernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, static_cast<const int*>(squares), out_);
  });
  for (int i = 0; i < n; ++i) expect(out[i] == (n - 1 - i) * (n - 1 - i), "two launches");
}

__global__ void index_kernel(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = static_cast<int>(block * 1000 + thread);
}

void three_dimensions() {
  std::vector<int> out(2 * 3 * 4 * 5 * 6 * 2);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(index_kernel, dim3(2, 3, 4), dim3(5, 6, 2), 0, nullptr, out_); });
  for (int i = 0; i < static_cast<int>(out.size()); ++i) expect(out[i] == i / 60 * 1000 + i % 60, "three dimensions");
}

template <unsigned kBlockSize, unsigned kGridY>
void configuration() {
  std::vector<int> out(1);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(fill_kernel, dim3(1, kGridY), dim3(kBlockSize), 0, nullptr, out_, 1); });
}

constexpr Case kCases[] = {
    {"bug_cross_block_store", &fails<cross_store_kernel>},
    {"bug_cross_block_read", &fails<cross_read_kernel>},
    {"bug_cross_block_overwrite", &fails<cross_overwrite_kernel>},
    {"ok_histogram", &histogram<true>},
    {"bug_histogram_without_atomics", &histogram<false>},
    {"ok_shared_histogram", &shared_histogram},
    {"bug_counter_read_without_barrier", &fails<counter_read_kernel>},
    {"bug_late_clear", &fails<late_clear_kernel>},
    {"bug_float_atomics", &float_sum},
    {"bug_ticket_order", &fails<ticket_kernel>},
    {"bug_spin", &fails<spin_kernel>},
    {"ok_atomics", &atomics},
    {"ok_two_launches", &two_launches},
    {"ok_three_dimensions", &three_dimensions},
    {"bug_block_too_large", &configuration<1025, 1>},
    {"bug_grid_too_large", &configuration<32, 65536>},
};

}  // namespace

std::span<const Case> block_cases() { return kCases; }

}  // namespace tk::simt::selftest
