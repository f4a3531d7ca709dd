// SPDX-License-Identifier: Apache-2.0
// A block takes 64 queries of one head past all keys, 64 at a time: running maxima and sums of both sides, and the
// teacher's running mean of the student's scores.
#pragma once
#include "attention/map_tile.cuh"

namespace tk::attention::gpu {

// Running log-sum-exp of a row, and the weighted sum of another score.
struct RunningRow {
  float most = -kInfinity;
  float sum = 0.0f;
  float weighted = 0.0f;
};

// Adds the scores of a row's tile, four a thread; `other` is what the weights multiply.
__device__ __forceinline__ void add_scores(RunningRow& row, const float (&score)[4], const float (&other)[4],
                                           const bool (&inside)[4]) {
  float most = -kInfinity;
#pragma unroll
  for (int c = 0; c < 4; ++c) most = inside[c] ? fmaxf(most, score[c]) : most;
  most = fmaxf(row.most, row_max(most));
  const float base = most == -kInfinity ? 0.0f : most;  // a teacher may hide every key so far
  float sum = 0.0f;
  float weighted = 0.0f;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const float weight = inside[c] ? expf(score[c] - base) : 0.0f;
    sum += weight;
    weighted += inside[c] ? weight * other[c] : 0.0f;
  }
  const float kept = row.most == -kInfinity ? 0.0f : expf(row.most - base);
  row.sum = row.sum * kept + row_sum(sum);
  row.weighted = row.weighted * kept + row_sum(weighted);
  row.most = most;
}

__device__ __forceinline__ float lse_of(const RunningRow& row) {
  return row.most == -kInfinity && row.sum == 0.0f ? -kInfinity : row.most + logf(row.sum);
}

template <class T>
__global__ void __launch_bounds__(kMapThreads) attention_map_ce_kernel(AttentionMapCeArgs a) {
  TK_SHARED(left, float[kMapDepth][kMapStride]);
  TK_SHARED(right, float[kMapDepth][kMapStride]);
  const int64_t tiles = (a.queries + kMapTile - 1) / kMapTile;
  const int64_t head = blockIdx.x / tiles;
  const int64_t first = blockIdx.x % tiles * kMapTile;
  const int64_t b = head / a.heads;
  const int64_t h = head % a.heads;
  RunningRow student[4];
  RunningRow teacher[4];
  for (int64_t key = 0; key < a.keys; key += kMapTile) {
    float s[4][4];
    float t[4][4];
    side_scores<T, false>(a.student, b, h, a.queries, a.keys, first, key, left, right, s);
    side_scores<T, false>(a.teacher, b, h, a.queries, a.keys, first, key, left, right, t);
    bool inside[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) inside[c] = key + threadIdx.x % 16 + 16 * c < a.keys;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      add_scores(student[r], s[r], s[r], inside);
      add_scores(teacher[r], t[r], s[r], inside);
    }
  }
  if (threadIdx.x % 16 != 0) return;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int64_t i = first + 4 * (threadIdx.x / 16) + r;
    if (i >= a.queries) continue;
    const int64_t out = head * a.queries + i;
    const float lse = lse_of(student[r]);
    a.loss[out] = a.keys > 0 ? lse - teacher[r].weighted / teacher[r].sum : 0.0f;
    if (a.lse_student != nullptr) a.lse_student[out] = lse;
    if (a.lse_teacher != nullptr) a.lse_teacher[out] = lse_of(teacher[r]);
  }
}

}  // namespace tk::attention::gpu
