// SPDX-License-Identifier: Apache-2.0
// One block a tile of rows and a part of the codes: what the part says of every row.
#pragma once
#include "quantize/soft_tile.cuh"

namespace tk::quantize::gpu {

// Over the 16 threads that share a row.
__device__ __forceinline__ float sum_of_row(float x) {
  for (int o = 8; o > 0; o /= 2) x += __shfl_xor_sync(kAllLanes, x, o);
  return x;
}

__device__ __forceinline__ SoftStats stats_of_row(SoftStats s, float base) {
  for (int o = 8; o > 0; o /= 2) {
    const SoftStats other{__shfl_xor_sync(kAllLanes, s.top, o), __shfl_xor_sync(kAllLanes, s.sum, o),
                          __shfl_xor_sync(kAllLanes, s.weighted, o), __shfl_xor_sync(kAllLanes, s.index, o)};
    // The same order of both in all threads: the lower one's first.
    s = threadIdx.x & o ? join_soft_stats(other, s, base) : join_soft_stats(s, other, base);
  }
  return s;
}

// Rule: struct with State, begin() -> State, meet(State*, row, code, score), end(State, row at part).
template <class T, class Rule>
__global__ void __launch_bounds__(kSoftThreads) soft_rows_kernel(SoftPair p, int64_t tiles, Rule rule) {
  TK_SHARED(ls, float[kSoftDepth][kSoftPitch]);
  TK_SHARED(rs, float[kSoftDepth][kSoftPitch]);
  const int64_t book = blockIdx.x / tiles;
  const int64_t l0 = blockIdx.x % tiles * kSoftTile;
  const int64_t code_tiles = (p.codes.count + kSoftTile - 1) / kSoftTile;
  const int64_t begin = code_tiles * blockIdx.y / gridDim.y;
  const int64_t end = code_tiles * (blockIdx.y + 1) / gridDim.y;
  const int tx = threadIdx.x % 16;
  const int64_t first = l0 + threadIdx.x / 16 * kSoftSide;
  typename Rule::State state[kSoftSide];
#pragma unroll
  for (int i = 0; i < kSoftSide; ++i) state[i] = rule.begin();
  float sum[kSoftSide][kSoftSide];
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t r0 = tile * kSoftTile;
    tile_products<T>(p.rows, l0, p.codes, r0, book, p.width, ls, rs, sum);
#pragma unroll
    for (int j = 0; j < kSoftSide; ++j) {
      const int64_t code = r0 + tx + 16 * j;
      if (code >= p.codes.count) continue;
      const float scale = p.codes.scale[book * p.codes.count + code];
      const float bias = p.codes.bias[book * p.codes.count + code];
#pragma unroll
      for (int i = 0; i < kSoftSide; ++i) {
        if (first + i >= p.rows.count) continue;
        const float row_scale = p.rows.scale[book * p.rows.count + first + i];
        rule.meet(&state[i], book, first + i, code, fmaf(sum[i][j] * row_scale, scale, bias));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kSoftSide; ++i) {
    const auto whole = rule.whole(state[i]);
    if (tx == 0 && first + i < p.rows.count) {
      rule.parts[(book * gridDim.y + blockIdx.y) * p.rows.count + first + i] = whole;
    }
  }
}

struct StatsRule {
  using State = SoftStats;
  float base;
  SoftStats* parts;  // [book][part][row]
  __device__ __forceinline__ State begin() const { return no_soft_stats(); }
  __device__ __forceinline__ void meet(State* s, int64_t, int64_t, int64_t code, float score) const {
    offer_score(s, score, static_cast<int32_t>(code), base);
  }
  __device__ __forceinline__ State whole(const State& s) const { return stats_of_row(s, base); }
};

__device__ __forceinline__ SoftStats joined_parts(const SoftStats* parts, int64_t parts_count, int64_t rows,
                                                  int64_t row, float base) {
  const SoftStats* from = parts + row / rows * parts_count * rows + row % rows;
  SoftStats all = from[0];
  for (int64_t part = 1; part < parts_count; ++part) all = join_soft_stats(all, from[part * rows], base);
  return all;
}

}  // namespace tk::quantize::gpu
