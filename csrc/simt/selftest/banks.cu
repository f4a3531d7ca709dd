// SPDX-License-Identifier: Apache-2.0
// Accesses to shared memory whose bank conflicts are known; `_simt.bank_conflicts()` must count exactly these.
#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

constexpr int kRows = 32;

// Fills `tile` (row by row), then lane l reads word l * kStride of it.
template <int kStride>
__global__ void stride_kernel(float* out) {
  TK_SHARED(tile, float[kRows * kStride]);
  const int lane = threadIdx.x;
  for (int i = 0; i < kStride; ++i) tile[i * 32 + lane] = 1.0f;
  __syncthreads();
  out[lane] = tile[lane * kStride];
}

// kBytes neighbouring bytes for each lane.
template <class Word>
__global__ void wide_kernel(Word* out) {
  TK_SHARED(tile, Word[32]);
  const int lane = threadIdx.x;
  tile[lane] = Word{};
  __syncthreads();
  out[lane] = tile[31 - lane];
}

__global__ void broadcast_kernel(float* out) {
  TK_SHARED(tile, float[64]);
  const int lane = threadIdx.x;
  tile[lane] = tile[lane + 32] = 1.0f;
  __syncthreads();
  out[lane] = tile[lane / 16 * 33];  // two words of different banks
}

__global__ void atomic_kernel(int* out) {
  TK_SHARED(bins, int[32]);
  const int lane = threadIdx.x;
  bins[lane] = 0;
  __syncthreads();
  atomicAdd(&bins[lane % 8], 1);  // four lanes take turns
  __syncthreads();
  out[lane] = bins[lane];
}

// Lanes leave the loop at different times; those that are left still pass it together.
__global__ void uneven_kernel(float* out) {
  TK_SHARED(tile, float[64]);
  const int lane = threadIdx.x;
  tile[lane] = tile[lane + 32] = 1.0f;
  __syncthreads();
  float sum = 0.0f;
  for (int i = lane; i < 40; i += 32) sum += tile[i];
  for (int i = lane; i < 52; i += 32) sum += tile[i];
  __syncwarp();
  if (lane < 16) sum += tile[4 * lane];
  out[lane] = sum;
}

template <int kWidth>  // elements of a row
__global__ void matrix_kernel(float* out, const uint16_t* x) {
  TK_SHARED(tile, uint16_t[16][kWidth]);
  const int lane = threadIdx.x;
  cp_async16(&tile[lane / 2][lane % 2 * 8], x + lane * 8);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4(r, &tile[lane % 16][lane / 16 * 8]);
  out[lane] = static_cast<float>(r[0] + r[1] + r[2] + r[3]);
}

template <class T, void (*kKernel)(T*)>
void once() {
  std::vector<T> out(32);
  Arguments arguments;
  T* out_ = arguments.out("out", out);
  arguments.run([&] { launch(kKernel, dim3(1), dim3(32), 0, nullptr, out_); });
}

template <int kWidth>
void matrix() {
  std::vector<float> out(32);
  const std::vector<uint16_t> x(256);
  Arguments arguments;
  float* out_ = arguments.out("out", out);
  const uint16_t* x_ = arguments.in("x", x);
  arguments.run([&] { launch(matrix_kernel<kWidth>, dim3(1), dim3(32), 0, nullptr, out_, x_); });
}

constexpr Case kCases[] = {
    {"banks_stride_1", &once<float, stride_kernel<1>>},
    {"banks_stride_2", &once<float, stride_kernel<2>>},
    {"banks_stride_32", &once<float, stride_kernel<32>>},
    {"banks_stride_33", &once<float, stride_kernel<33>>},
    {"banks_2_bytes", &once<uint16_t, wide_kernel<uint16_t>>},
    {"banks_8_bytes", &once<float2, wide_kernel<float2>>},
    {"banks_16_bytes", &once<float4, wide_kernel<float4>>},
    {"banks_broadcast", &once<float, broadcast_kernel>},
    {"banks_atomic", &once<int, atomic_kernel>},
    {"banks_uneven", &once<float, uneven_kernel>},
    {"banks_matrix_64", &matrix<64>},
    {"banks_matrix_72", &matrix<72>},
};

}  // namespace

std::span<const Case> bank_cases() { return kCases; }

}  // namespace tk::simt::selftest
