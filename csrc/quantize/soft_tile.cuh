// SPDX-License-Identifier: Apache-2.0
// Products of 64 vectors with 64 others, and what the scores of rows against codes are made of. A block has 256
// threads; thread (ty, tx) holds vectors 4 ty + i of the left side and tx + 16 j of the right one.
#pragma once
#include "core/gpu.cuh"
#include "core/metric.h"

namespace tk::quantize::gpu {

constexpr int kSoftThreads = 256;
constexpr int kSoftTile = 64;
constexpr int kSoftDepth = 16;        // of a step of the width
constexpr int kSoftPitch = 66;        // two rows and 16 steps of the width meet no bank twice
constexpr int kSoftSide = 4;          // of a thread's share
constexpr int64_t kSoftBlocks = 264;  // two waves of 132 multiprocessors
constexpr int kSoftWarps = kSoftThreads / 32;
constexpr float kSoftBaseTwo = 1.44269504088896341f;
constexpr float kSoftLn2 = 0.693147180559945309f;

// Rows or codes of all books. score = product * row scale * code scale + code bias, and the same for all codes: row
// bias.
struct SoftSide {
  const void* data;
  int64_t book_stride, stride;  // in elements
  int64_t count;                // of a book
  float* scale;                 // [book][count]
  float* bias;
  float* inverse;  // 1 / norm, where cosines are asked for
};

struct SoftPair {
  SoftSide rows, codes;
  int64_t books, width;
  Metric metric;
  float base;  // inverse temperature * log2 e
};

template <class T>
__device__ __forceinline__ const T* soft_vector(const SoftSide& s, int64_t book, int64_t i) {
  return static_cast<const T*>(s.data) + book * s.book_stride + i * s.stride;
}

// One warp a vector; what is not finite makes its scores NaN.
template <class T, bool kCodes>
__global__ void __launch_bounds__(kSoftThreads) soft_norms_kernel(SoftPair p) {
  const SoftSide& side = kCodes ? p.codes : p.rows;
  const int64_t at = int64_t{blockIdx.x} * kSoftWarps + threadIdx.x / 32;
  if (at >= p.books * side.count) return;
  const T* v = soft_vector<T>(side, at / side.count, at % side.count);
  float squares = 0.0f;
  float check = 0.0f;
  for (int64_t d = threadIdx.x % 32; d < p.width; d += 32) {
    const float x = to_float(v[d]);
    squares += x * x;
    check += x * 0.0f;
  }
  for (int o = 16; o > 0; o /= 2) {
    squares += __shfl_xor_sync(kAllLanes, squares, o);
    check += __shfl_xor_sync(kAllLanes, check, o);
  }
  if (threadIdx.x % 32 != 0) return;
  const float inverse = squares == 0.0f ? 0.0f : 1.0f / sqrtf(squares);
  const float bias = p.metric == Metric::l2 ? -squares : 0.0f;
  side.inverse[at] = p.metric == Metric::cosine ? inverse : 1.0f;
  const float scale = p.metric == Metric::cosine ? inverse : kCodes && p.metric == Metric::l2 ? 2.0f : 1.0f;
  side.scale[at] = kCodes ? scale : scale + check;
  side.bias[at] = kCodes ? bias + check : bias;
}

template <class T>
void launch_norms(const SoftPair& p, void* stream) {
  const auto blocks = [&](int64_t count) {
    return dim3(static_cast<unsigned>((p.books * count + kSoftWarps - 1) / kSoftWarps));
  };
  if (p.rows.count > 0) {
    launch(soft_norms_kernel<T, false>, blocks(p.rows.count), dim3(kSoftThreads), 0, stream, p);
  }
  launch(soft_norms_kernel<T, true>, blocks(p.codes.count), dim3(kSoftThreads), 0, stream, p);
}

template <class T>
__device__ __forceinline__ void stage_vectors(const SoftSide& s, int64_t book, int64_t first, int64_t d0, int64_t width,
                                              float (*to)[kSoftPitch]) {
  const int d = threadIdx.x % kSoftDepth;
#pragma unroll
  for (int i = 0; i < kSoftSide; ++i) {
    const int row = threadIdx.x / kSoftDepth + 16 * i;
    const bool there = first + row < s.count && d0 + d < width;
    to[d][row] = there ? to_float(soft_vector<T>(s, book, first + row)[d0 + d]) : 0.0f;
  }
}

// sum[i][j] = product of left vector 4 ty + i and right vector tx + 16 j; starts by a barrier.
template <class T>
__device__ __forceinline__ void tile_products(const SoftSide& left, int64_t l0, const SoftSide& right, int64_t r0,
                                              int64_t book, int64_t width, float (*ls)[kSoftPitch],
                                              float (*rs)[kSoftPitch], float (&sum)[kSoftSide][kSoftSide]) {
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < kSoftSide; ++i) {
#pragma unroll
    for (int j = 0; j < kSoftSide; ++j) sum[i][j] = 0.0f;
  }
  for (int64_t d0 = 0; d0 < width; d0 += kSoftDepth) {
    __syncthreads();
    stage_vectors<T>(left, book, l0, d0, width, ls);
    stage_vectors<T>(right, book, r0, d0, width, rs);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kSoftDepth; ++d) {
#pragma unroll
      for (int i = 0; i < kSoftSide; ++i) {
        const float x = ls[d][4 * ty + i];
#pragma unroll
        for (int j = 0; j < kSoftSide; ++j) sum[i][j] = fmaf(x, rs[d][tx + 16 * j], sum[i][j]);
      }
    }
  }
}

// What codes say of one row; sums are relative to the highest score, in base 2.
struct SoftStats {
  float top, sum, weighted;
  int32_t index;
};

__device__ __forceinline__ SoftStats no_soft_stats() { return {-kInfinity, 0.0f, 0.0f, INT32_MAX}; }

__device__ __forceinline__ SoftStats join_soft_stats(const SoftStats& a, const SoftStats& b, float base) {
  if (a.sum == 0.0f) return b;
  if (b.sum == 0.0f) return a;
  const bool other = b.top > a.top || (b.top == a.top && b.index < a.index);
  const SoftStats& high = other ? b : a;
  const SoftStats& low = other ? a : b;
  const float away = low.top == high.top ? 0.0f : (low.top - high.top) * base;
  const float factor = exp2f(away);
  const float moved = factor == 0.0f ? low.sum * factor : factor * (low.weighted + low.sum * away);
  return {high.top, high.sum + low.sum * factor, high.weighted + moved, high.index};
}

__device__ __forceinline__ void offer_score(SoftStats* s, float score, int32_t code, float base) {
  *s = join_soft_stats(*s, {score, score == score ? 1.0f : score, 0.0f, code}, base);
}

// log(max(p, floor) + add), or the exact logarithm, given in base 2.
struct SoftGuard {
  float add, floor;
  __device__ __forceinline__ bool exact() const { return add == 0.0f && floor == 0.0f; }
  __device__ __forceinline__ float guarded(float p) const { return (p < floor ? floor : p) + add; }
};

// The sum of the weights of each book, one block a book.
template <class Total>
__global__ void __launch_bounds__(kSoftThreads)
    soft_total_kernel(const float* weight, int64_t book_stride, int64_t rows, float* total) {
  TK_SHARED(sums, Total[kSoftThreads]);
  Total sum = 0;
  for (int64_t n = threadIdx.x; n < rows; n += kSoftThreads)
    sum += static_cast<Total>(weight[blockIdx.x * book_stride + n]);
  sums[threadIdx.x] = sum;
  for (unsigned o = kSoftThreads / 2; o > 0; o /= 2) {
    __syncthreads();
    if (threadIdx.x < o) sums[threadIdx.x] += sums[threadIdx.x + o];
  }
  if (threadIdx.x == 0) total[blockIdx.x] = static_cast<float>(sums[0]);
}

// How much of the mean a row is.
struct SoftShare {
  const float* weight;
  int64_t book_stride, rows;
  const float* total;
  __device__ __forceinline__ float of(int64_t book, int64_t n) const {
    if (!weight) return 1.0f / static_cast<float>(rows);
    const float w = weight[book * book_stride + n];
    return w == 0.0f || total[book] == 0.0f ? 0.0f : w / total[book];
  }
};

inline int64_t soft_tiles(int64_t count) { return (count + kSoftTile - 1) / kSoftTile; }

// Parts that the other side is cut into where there are few blocks.
inline int64_t soft_splits(int64_t blocks, int64_t tiles) {
  const int64_t wanted = blocks > 0 ? (kSoftBlocks + blocks - 1) / blocks : 1;
  return wanted < 1 ? 1 : wanted > tiles ? (tiles < 1 ? 1 : tiles) : wanted;
}

inline dim3 soft_grid(int64_t x, int64_t y = 1) { return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)); }

// Hands out the workspace.
struct SoftMemory {
  float* base;
  int64_t used = 0;
  float* take(int64_t floats) {
    float* at = base ? base + used : nullptr;
    used += (floats + 63) / 64 * 64;
    return at;
  }
};

template <class Args>
SoftPair soft_pair(const Args& a, SoftMemory* m) {
  SoftPair p{};
  p.books = a.books;
  p.width = a.width;
  p.metric = a.metric;
  p.base = a.inv_temperature * kSoftBaseTwo;
  p.rows = {a.x, a.x_book_stride, a.x_row_stride, a.rows, nullptr, nullptr, nullptr};
  p.codes = {a.codes, a.c_book_stride, a.c_row_stride, a.codes_count, nullptr, nullptr, nullptr};
  SoftSide* sides[] = {&p.rows, &p.codes};
  for (SoftSide* side : sides) {
    side->scale = m->take(a.books * side->count);
    side->bias = m->take(a.books * side->count);
    side->inverse = m->take(a.books * side->count);
  }
  return p;
}

}  // namespace tk::quantize::gpu
