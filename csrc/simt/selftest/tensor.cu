// SPDX-License-Identifier: Apache-2.0
// mma and ldmatrix against plain loops.
#include <cmath>

#include "simt/selftest/selftest.h"

namespace tk::simt::selftest {
namespace {

constexpr int kWidth = 24;  // elements of a row in shared memory: 48 bytes, so rows stay 16-byte aligned

// One warp, c (16 x 8) = a (16 x k) b^T (8 x k): fragments through ldmatrix, operands double-buffered by cp.async.
template <class T>
__global__ void tile_kernel(const T* a, const T* b, float* c, int k) {
  TK_SHARED(left, T[2][16][kWidth]);
  TK_SHARED(right, T[2][8][kWidth]);
  const int lane = threadIdx.x;
  float d[4] = {};
  const auto fetch = [&](int stage, int p) {
    const int row = lane / 2;
    const int half = lane % 2 * 8;
    cp_async16(&left[stage][row][half], a + row * k + p + half);
    if (row < 8) cp_async16(&right[stage][row][half], b + row * k + p + half);
    cp_async_commit();
  };
  fetch(0, 0);
  for (int p = 0; p < k; p += 16) {
    const int stage = p / 16 % 2;
    if (p + 16 < k) {
      fetch(1 - stage, p + 16);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncwarp();
    uint32_t fa[4];
    uint32_t fb[2];
    ldmatrix_x4(fa, &left[stage][lane % 16][lane / 16 * 8]);
    ldmatrix_x2(fb, &right[stage][lane % 8][lane / 8 % 2 * 8]);
    mma_m16n8k16<T>(d, fa, fb);
    __syncwarp();
  }
  for (int r = 0; r < 4; ++r) c[(lane / 4 + r / 2 * 8) * 8 + lane % 4 * 2 + r % 2] = d[r];
}

template <class T>
void tile() {
  constexpr int k = 64;
  std::vector<T> a(16 * k), b(8 * k);
  std::vector<float> c(16 * 8);
  for (int i = 0; i < 16 * k; ++i) a[i] = from_float<T>(std::sin(0.7f * static_cast<float>(i)));
  for (int i = 0; i < 8 * k; ++i) b[i] = from_float<T>(std::cos(0.3f * static_cast<float>(i)));
  Arguments arguments;
  const T* a_ = arguments.in("a", a);
  const T* b_ = arguments.in("b", b);
  float* c_ = arguments.out("c", c);
  arguments.run([&] { launch(tile_kernel<T>, dim3(1), dim3(32), 0, nullptr, a_, b_, c_, k); });
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (int p = 0; p < k; ++p) {
        const double product = static_cast<double>(to_float(a[i * k + p])) * to_float(b[j * k + p]);
        sum += product;
        magnitude += std::fabs(product);
      }
      // Products of two 16-bit floats are exact in fp32; each of the k additions rounds once.
      expect(std::fabs(c[i * 8 + j] - sum) <= k * 6.0e-8 * magnitude, "tensor core tile");
    }
  }
}

// What every variant of ldmatrix puts into the registers of every lane.
__global__ void matrix_kernel(uint32_t* out) {
  TK_SHARED(tile, uint16_t[32][8]);
  const int lane = threadIdx.x;
  for (int c = 0; c < 8; ++c) tile[lane][c] = static_cast<uint16_t>(lane * 8 + c);
  __syncwarp();
  uint32_t four[4];
  uint32_t two[2];
  uint32_t* row = out + lane * 12;
  ldmatrix_x4(four, tile[lane]);
  for (int i = 0; i < 4; ++i) row[i] = four[i];
  ldmatrix_x4_trans(four, tile[lane]);
  for (int i = 0; i < 4; ++i) row[4 + i] = four[i];
  ldmatrix_x2(two, tile[lane % 16]);
  for (int i = 0; i < 2; ++i) row[8 + i] = two[i];
  ldmatrix_x2_trans(two, tile[lane % 16]);
  for (int i = 0; i < 2; ++i) row[10 + i] = two[i];
}

uint32_t pair(int matrix, int row, int column, bool transposed) {
  const auto element = [&](int r, int c) { return static_cast<uint32_t>((8 * matrix + r) * 8 + c); };
  if (transposed) return element(column, row) | element(column + 1, row) << 16;
  return element(row, column) | element(row, column + 1) << 16;
}

void matrix_layout() {
  std::vector<uint32_t> out(32 * 12);
  Arguments arguments;
  uint32_t* out_ = arguments.out("out", out);
  arguments.run([&] { launch(matrix_kernel, dim3(1), dim3(32), 0, nullptr, out_); });
  for (int lane = 0; lane < 32; ++lane) {
    const uint32_t* row = out.data() + lane * 12;
    for (int i = 0; i < 4; ++i) {
      const uint32_t plain = pair(i, lane / 4, lane % 4 * 2, false);
      const uint32_t transposed = pair(i, lane / 4, lane % 4 * 2, true);
      expect(row[i] == plain && row[4 + i] == transposed, "ldmatrix_x4");
      if (i < 2) expect(row[8 + i] == plain && row[10 + i] == transposed, "ldmatrix_x2");
    }
  }
}

enum class Bug { misaligned, global_memory, partial_warp, past_end, no_barrier };

template <Bug kBug>
__global__ void bad_matrix_kernel(const uint16_t* x, uint32_t* out) {
  TK_SHARED(tile, uint16_t[16][8]);
  const int lane = threadIdx.x;
  for (int c = 0; lane < 16 && c < 8; ++c) tile[lane][c] = x[c];
  if (kBug != Bug::no_barrier) __syncthreads();
  if (kBug == Bug::partial_warp && lane >= 16) return;
  const uint16_t* row = tile[lane % 16];
  if (kBug == Bug::misaligned) row += 1;
  if (kBug == Bug::global_memory) row = x;
  if (kBug == Bug::past_end) row += 8;
  uint32_t r[2];
  ldmatrix_x2(r, row);
  out[lane] = r[0] + r[1];
}

template <Bug kBug>
void bad_matrix() {
  std::vector<uint16_t> x(64);
  std::vector<uint32_t> out(32);
  Arguments arguments;
  const uint16_t* x_ = arguments.in("x", x);
  uint32_t* out_ = arguments.out("out", out);
  arguments.run([&] { launch(bad_matrix_kernel<kBug>, dim3(1), dim3(32), 0, nullptr, x_, out_); });
}

constexpr Case kCases[] = {
    {"ok_tile_bf16", &tile<bf16_t>},
    {"ok_tile_f16", &tile<f16_t>},
    {"ok_matrix_layout", &matrix_layout},
    {"bug_matrix_misaligned", &bad_matrix<Bug::misaligned>},
    {"bug_matrix_in_global", &bad_matrix<Bug::global_memory>},
    {"bug_matrix_partial_warp", &bad_matrix<Bug::partial_warp>},
    {"bug_matrix_past_end", &bad_matrix<Bug::past_end>},
    {"bug_matrix_no_barrier", &bad_matrix<Bug::no_barrier>},
};

}  // namespace

std::span<const Case> tensor_cases() { return kCases; }

}  // namespace tk::simt::selftest
