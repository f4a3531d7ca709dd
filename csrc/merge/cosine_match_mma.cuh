// SPDX-License-Identifier: Apache-2.0
// cosine_match of float16 and bfloat16 on tensor cores: a warp multiplies 16 rows by all columns of a tile.
#pragma once
#include "merge/cosine_match.cuh"

namespace tk::merge::gpu {

constexpr int kDepth16 = 32;
constexpr int kPitch16 = kDepth16 + 8;  // 80 bytes: the eight rows of a matrix fall into different banks
constexpr int kStages16 = 4;            // a step is over before its successor could come from memory
constexpr int kWarpRows = 16;
constexpr int kColumnGroups = kMatchColumns / 8;
static_assert(kMatchThreads / 32 * kWarpRows == kMatchRows, "each warp has its own rows");

template <class T>
__device__ __forceinline__ void multiply_tile16(const T* rows, const T* columns, float (&sum)[kColumnGroups][4]) {
  const int lane = threadIdx.x % 32;
  const T* x = rows + (threadIdx.x / 32 * kWarpRows + lane % 16) * kPitch16 + lane / 16 * 8;
  const T* y = columns + (lane / 16 * 8 + lane % 8) * kPitch16 + lane / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < kDepth16; d += 16) {
    uint32_t left[4];
    ldmatrix_x4(left, x + d);
#pragma unroll
    for (int g = 0; g < kColumnGroups; g += 2) {  // two groups of eight columns a load
      uint32_t both[4];
      ldmatrix_x4(both, y + g * 8 * kPitch16 + d);
      const uint32_t first[2] = {both[0], both[1]};
      const uint32_t second[2] = {both[2], both[3]};
      mma_m16n8k16<T>(sum[g], left, first);
      mma_m16n8k16<T>(sum[g + 1], left, second);
    }
  }
}

// The two columns of a thread in every group, offered to its two rows in ascending order.
__device__ __forceinline__ void offer_tile16(const CosineMatchArgs& a, const float* inverse_b, int64_t first,
                                             float (&sum)[kColumnGroups][4], BestColumn (&best)[2]) {
#pragma unroll
  for (int g = 0; g < kColumnGroups; ++g) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t column = first + g * 8 + threadIdx.x % 4 * 2 + e;
      const float inverse = column < a.columns ? inverse_b[column] : not_a_number();
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        best[r].offer(sum[g][2 * r + e] * inverse, static_cast<int>(column));
        sum[g][2 * r + e] = 0;
      }
    }
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kMatchThreads) match_mma_kernel(CosineMatchArgs a, MatchScratch s, int64_t splits) {
  TK_SHARED(rows, T[kStages16][kMatchRows * kPitch16]);
  TK_SHARED(columns, T[kStages16][kMatchColumns * kPitch16]);
  const MatchTask task = match_task(a, splits);
  auto stream = tile_stream<T, kDepth16, kPitch16, kStages16, kAligned>(a, task, rows[0], columns[0]);
  BestColumn best[2];
  float sum[kColumnGroups][4] = {};
  stream.start();
  for (MatchStep at{task.tile_begin, 0, 0}; at.tile < task.tile_end; at.advance(stream.chunks, kStages16)) {
    stream.await_step();
    multiply_tile16(rows[at.stage], columns[at.stage], sum);
    if (at.chunk + 1 < stream.chunks) continue;
    offer_tile16(a, s.inverse_b + task.b * a.columns, at.tile * kMatchColumns, sum, best);
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const BestColumn row = best_of_lanes<4>(best[r]);
    if (lane % 4 == 0) finish_row(a, s, task, splits, threadIdx.x / 32 * kWarpRows + lane / 4 + 8 * r, row);
  }
}

}  // namespace tk::merge::gpu
