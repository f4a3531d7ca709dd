// SPDX-License-Identifier: Apache-2.0
// Barriers of a block: a tiled product with and without them, divergence, early return.
#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

enum class Bug { none, no_barrier_after_fill, no_barrier_before_reuse };

constexpr int kTile = 16;

template <Bug kBug>
__global__ void product_kernel(const float* a, const float* b, float* c, int n) {
  TK_SHARED(left, float[kTile][kTile + 1]);
  TK_SHARED(right, float[kTile][kTile + 1]);
  const int x = threadIdx.x;
  const int y = threadIdx.y;
  const int row = blockIdx.y * kTile + y;
  const int column = blockIdx.x * kTile + x;
  float sum = 0.0f;
  for (int k = 0; k < n; k += kTile) {
    left[y][x] = row < n && k + x < n ? a[row * n + k + x] : 0.0f;
    right[y][x] = k + y < n && column < n ? b[(k + y) * n + column] : 0.0f;
    if (kBug != Bug::no_barrier_after_fill) __syncthreads();
    for (int i = 0; i < kTile; ++i) sum += left[y][i] * right[i][x];
    if (kBug != Bug::no_barrier_before_reuse) __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}

template <Bug kBug>
void product() {
  constexpr int n = 37;
  std::vector<float> a(n * n), b(n * n), c(n * n);
  for (int i = 0; i < n * n; ++i) {
    a[i] = sample(i);
    b[i] = sample(3 * i + 1);
  }
  Arguments arguments;
  const float* a_ = arguments.in("a", a);
  const float* b_ = arguments.in("b", b);
  float* c_ = arguments.out("c", c);
  const unsigned tiles = (n + kTile - 1) / kTile;
  arguments.run(
      [&] { launch(product_kernel<kBug>, dim3(tiles, tiles), dim3(kTile, kTile), 0, nullptr, a_, b_, c_, n); });
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int k = 0; k < n; ++k) sum += static_cast<double>(a[i * n + k]) * b[k * n + j];
      expect(c[i * n + j] == static_cast<float>(sum), "tiled product");
    }
  }
}

// A sum over the block by halving, with the last warp on its own.
__global__ void reduce_kernel(const float* x, float* sums, int n) {
  TK_DYNAMIC_SHARED(float, partial);
  const int t = threadIdx.x;
  const int i = blockIdx.x * blockDim.x + t;
  partial[t] = i < n ? x[i] : 0.0f;
  __syncthreads();
  for (int half = blockDim.x / 2; half >= 32; half /= 2) {
    if (t < half) partial[t] += partial[t + half];
    __syncthreads();
  }
  if (t >= 32) return;
  float sum = partial[t];
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
  if (t == 0) sums[blockIdx.x] = sum;
}

void reduction() {
  constexpr int n = 700;
  std::vector<float> x(n), sums(3);
  for (int i = 0; i < n; ++i) x[i] = sample(i);
  Arguments arguments;
  const float* x_ = arguments.in("x", x);
  float* sums_ = arguments.out("sums", sums);
  arguments.run([&] { launch(reduce_kernel, dim3(3), dim3(256), 256 * sizeof(float), nullptr, x_, sums_, n); });
  for (int b = 0; b < 3; ++b) {
    double sum = 0.0;
    for (int i = b * 256; i < n && i < (b + 1) * 256; ++i) sum += x[i];
    expect(sums[b] == static_cast<float>(sum), "reduction");
  }
}

__global__ void early_return_kernel(int* out, int n) {
  TK_SHARED(values, int[64]);
  const int i = threadIdx.x;
  if (i >= n) return;
  values[i] = i;
  __syncthreads();
  out[i] = values[n - 1 - i];
}

void early_return() {
  std::vector<int> out(40);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(early_return_kernel, dim3(1), dim3(64), 0, nullptr, out_, 40); });
  for (int i = 0; i < 40; ++i) expect(out[i] == 39 - i, "early return");
}

__global__ void divergent_kernel(int* out) {
  const int i = threadIdx.x;
  if (i < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[i] = i;
}

__global__ void half_barrier_kernel(int* out) {
  const int i = threadIdx.x;
  if (i < 16) __syncthreads();
  out[i] = __shfl_sync(0xffffffffu, i, 0);
}

// Writing the value that is already there is a race all the same.
__global__ void same_value_kernel(int* out) {
  TK_SHARED(flag, int[1]);
  if (threadIdx.x == 0) flag[0] = 5;
  __syncthreads();
  out[threadIdx.x] = flag[0];
  if (threadIdx.x == 63) flag[0] = 5;
}

template <void (*kKernel)(int*)>
void on_64_threads() {
  std::vector<int> out(64);
  Arguments arguments;
  int* out_ = arguments.out("out", out);
  arguments.run([&] { launch(kKernel, dim3(1), dim3(64), 0, nullptr, out_); });
}

constexpr Case kCases[] = {
    {"ok_tiled_product", &product<Bug::none>},
    {"bug_no_barrier_after_fill", &product<Bug::no_barrier_after_fill>},
    {"bug_no_barrier_before_reuse", &product<Bug::no_barrier_before_reuse>},
    {"ok_reduction", &reduction},
    {"ok_early_return", &early_return},
    {"bug_divergent_barrier", &on_64_threads<divergent_kernel>},
    {"bug_barrier_against_shuffle", &on_64_threads<half_barrier_kernel>},
    {"bug_late_write_of_same_value", &on_64_threads<same_value_kernel>},
};

}  // namespace

std::span<const Case> barrier_cases() { return kCases; }

}  // namespace tk::simt::selftest
