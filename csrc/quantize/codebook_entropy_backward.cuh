// SPDX-License-Identifier: Apache-2.0
// Scores are made again, tile by tile: once for the centre of every row, once for the gradient of the rows, once for
// that of the codes. A tile of gradients of logits stays in shared memory, where it is multiplied with the other side.
#pragma once
#include "quantize/codebook_entropy_backward.h"
#include "quantize/soft_rows.cuh"

namespace tk::quantize::gpu {

constexpr int kGradientPitch = 68;

struct CentreSums {
  float power, weighted;
};

// What the gradients of a row's logits are made of.
struct LogitRule {
  const float* lse;
  const float* grad_entropy;  // or null, as the next two
  const float* grad_mean;
  const float* grad_lse;
  const float* row_bias;
  const CentreSums* centres;  // [book][row]
  SoftShare share;
  SoftGuard guard;
  int64_t rows, count;
  float base, inv_temperature;

  __device__ __forceinline__ float log_p(int64_t at, float score) const {
    return fmaf(score, base, -(lse[at] - inv_temperature * row_bias[at]) * kSoftBaseTwo);
  }
  // What p_nk is multiplied by in the loss, t = log2 p.
  __device__ __forceinline__ float weight(int64_t book, int64_t row, int64_t code, float t, float p) const {
    float w = 0.0f;
    if (grad_mean) {
      const float part = share.of(book, row);
      if (part != 0.0f) w = grad_mean[book * count + code] * part;
    }
    if (!grad_entropy) return w;
    const float g = grad_entropy[book * rows + row];
    if (guard.exact()) return w - g * (fmaxf(t, -126.0f) * kSoftLn2 + 1.0f);
    const float u = guard.guarded(p);
    return w - g * (logf(u) + (p < guard.floor ? 0.0f : p / u));
  }
  __device__ __forceinline__ float gradient(int64_t book, int64_t row, int64_t code, float score) const {
    const int64_t at = book * rows + row;
    const float t = log_p(at, score);
    const float p = exp2f(t);
    const float inverse = 1.0f / centres[at].power;
    const float own = grad_lse ? grad_lse[at] : 0.0f;
    return p * inverse * (weight(book, row, code, t, p) - centres[at].weighted * inverse + own);
  }
};

struct CentreRule {
  using State = CentreSums;
  LogitRule logit;
  CentreSums* parts;  // [book][part][row]
  __device__ __forceinline__ State begin() const { return {0.0f, 0.0f}; }
  __device__ __forceinline__ void meet(State* s, int64_t book, int64_t row, int64_t code, float score) const {
    const float t = logit.log_p(book * logit.rows + row, score);
    const float p = exp2f(t);
    s->power += p;
    s->weighted += p * logit.weight(book, row, code, t, p);
  }
  __device__ __forceinline__ State whole(const State& s) const { return {sum_of_row(s.power), sum_of_row(s.weighted)}; }
};

__global__ void __launch_bounds__(kSoftThreads)
    soft_centres_kernel(const CentreSums* parts, CentreSums* out, int64_t count, int64_t parts_count, int64_t rows) {
  const int64_t i = int64_t{blockIdx.x} * kSoftThreads + threadIdx.x;
  if (i >= count) return;
  const CentreSums* from = parts + i / rows * parts_count * rows + i % rows;
  CentreSums all{0.0f, 0.0f};
  for (int64_t part = 0; part < parts_count; ++part) {
    all.power += from[part * rows].power;
    all.weighted += from[part * rows].weighted;
  }
  out[i] = all;
}

// One block a tile of vectors of one side and 64 of their numbers: raw[book][vector][width] = sum over the other side
// of the gradient of the logit times the other vector, and own[book][vector] = the sum of the gradients alone.
template <class T, bool kByCodes>
__global__ void __launch_bounds__(kSoftThreads)
    soft_gradient_kernel(SoftPair p, int64_t tiles, LogitRule rule, float* raw, float* own) {
  TK_SHARED(ls, float[kSoftDepth][kSoftPitch]);
  TK_SHARED(rs, float[kSoftDepth][kSoftPitch]);
  TK_SHARED(grads, float[kSoftTile][kGradientPitch]);
  const SoftSide& left = kByCodes ? p.codes : p.rows;
  const SoftSide& right = kByCodes ? p.rows : p.codes;
  const int64_t book = blockIdx.x / tiles;
  const int64_t l0 = blockIdx.x % tiles * kSoftTile;
  const int64_t d0 = int64_t{blockIdx.y} * kSoftTile;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  float total[kSoftSide][kSoftSide] = {};
  float alone[kSoftSide] = {};
  for (int64_t r0 = 0; r0 < right.count; r0 += kSoftTile) {
    float sum[kSoftSide][kSoftSide];
    tile_products<T>(left, l0, right, r0, book, p.width, ls, rs, sum);
#pragma unroll
    for (int i = 0; i < kSoftSide; ++i) {
#pragma unroll
      for (int j = 0; j < kSoftSide; ++j) {
        const int64_t l = l0 + ty * kSoftSide + i;
        const int64_t r = r0 + tx + 16 * j;
        const int64_t row = kByCodes ? r : l;
        const int64_t code = kByCodes ? l : r;
        float grad = 0.0f;
        if (l < left.count && r < right.count) {
          const int64_t k = book * p.codes.count + code;
          const float scaled = sum[i][j] * p.rows.scale[book * p.rows.count + row];
          grad = rule.gradient(book, row, code, fmaf(scaled, p.codes.scale[k], p.codes.bias[k]));
        }
        alone[i] += grad;
        grads[ty * kSoftSide + i][tx + 16 * j] = grad;
      }
    }
    for (int c0 = 0; c0 < kSoftTile; c0 += kSoftDepth) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kSoftSide; ++i) {
        const int c = threadIdx.x / kSoftTile + 4 * i;
        const int64_t r = r0 + c0 + c;
        const int64_t d = d0 + threadIdx.x % kSoftTile;
        const bool there = r < right.count && d < p.width;
        rs[c][threadIdx.x % kSoftTile] =
            there ? to_float(soft_vector<T>(right, book, r)[d]) * right.inverse[book * right.count + r] : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kSoftDepth; ++c) {
#pragma unroll
        for (int i = 0; i < kSoftSide; ++i) {
          const float g = grads[ty * kSoftSide + i][c0 + c];
#pragma unroll
          for (int j = 0; j < kSoftSide; ++j) total[i][j] = fmaf(g, rs[c][tx + 16 * j], total[i][j]);
        }
      }
    }
    __syncthreads();  // a width of 0 has no barrier before the next tile of gradients
  }
#pragma unroll
  for (int i = 0; i < kSoftSide; ++i) {
    const int64_t l = l0 + ty * kSoftSide + i;
    const float all = sum_of_row(alone[i]);
    if (l >= left.count) continue;
    if (tx == 0 && d0 == 0) own[book * left.count + l] = all;
#pragma unroll
    for (int j = 0; j < kSoftSide; ++j) {
      const int64_t d = d0 + tx + 16 * j;
      if (d < p.width) raw[(book * left.count + l) * p.width + d] = total[i][j];
    }
  }
}

// One warp a vector: the gradient by the score becomes that by the vector.
template <class T, bool kByCodes>
__global__ void __launch_bounds__(kSoftThreads)
    soft_turn_kernel(SoftPair p, const float* raw, const float* own, float inv_temperature, T* out) {
  const SoftSide& side = kByCodes ? p.codes : p.rows;
  const int64_t at = int64_t{blockIdx.x} * kSoftWarps + threadIdx.x / 32;
  if (at >= p.books * side.count) return;
  const int lane = threadIdx.x % 32;
  const T* v = soft_vector<T>(side, at / side.count, at % side.count);
  const float inverse = side.inverse[at];
  float along = 0.0f;
  if (p.metric == Metric::cosine) {
    for (int64_t d = lane; d < p.width; d += 32) along += raw[at * p.width + d] * to_float(v[d]) * inverse;
    for (int o = 16; o > 0; o /= 2) along += __shfl_xor_sync(kAllLanes, along, o);
  }
  for (int64_t d = lane; d < p.width; d += 32) {
    float g = raw[at * p.width + d];
    if (p.metric == Metric::l2) g = 2.0f * (g - own[at] * to_float(v[d]));
    if (p.metric == Metric::cosine) g = (g - along * to_float(v[d]) * inverse) * inverse;
    out[at * p.width + d] = from_float<T>(inv_temperature * g);
  }
}

}  // namespace tk::quantize::gpu
