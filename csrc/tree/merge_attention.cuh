// SPDX-License-Identifier: Apache-2.0
// A thread owns a chunk of kItems numbers of one row and walks over the parts; the threads of a row read its lses from
// the first cache. Memory bound: outs and lses are read once, out and lse written once.
#pragma once
#include "core/gpu.cuh"
#include "tree/merge_attention.h"

namespace tk::tree::gpu {

constexpr int kMergeThreads = 256;

template <class T, int kItems>
struct alignas(kItems * sizeof(T)) MergeChunk {
  T item[kItems];
};

TK_INLINE float largest_lse(const float* lses, int64_t part_stride, int64_t parts) {
  float most = -kInfinity;
  for (int64_t k = 0; k < parts; ++k) most = fmaxf(most, lses[k * part_stride]);
  return most;
}

// In: dtype of the parts, Out: of the answer. Chunks of a row: at least one, which writes the lse.
template <class In, class Out, int kItems>
__global__ void __launch_bounds__(kMergeThreads) merge_attention_kernel(MergeAttentionArgs a, int64_t chunks) {
  const PartShape& s = a.shape;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  const int64_t row = thread / chunks;
  if (row >= s.batch * s.heads * s.rows) return;
  const int64_t head = row / s.rows;
  const int64_t n = row % s.rows;
  const int64_t column = thread % chunks * kItems;
  const float* lses = part_lse(a.lses, 0, head / s.heads, head % s.heads, n);
  const In* outs = part_row<In>(a.outs, a.part_stride, 0, head / s.heads, head % s.heads, n) + column;
  const float most = largest_lse(lses, a.lses.part_stride, s.parts);
  const float base = most == -kInfinity ? 0.0f : most;
  const bool inside = column < s.width;
  float mixed[kItems] = {};
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t k = 0; k < s.parts; ++k) {
    const float lse = lses[k * a.lses.part_stride];
    if (lse == -kInfinity) continue;
    const float weight = expf(lse - base);
    sum += weight;
    if (!inside) continue;
    const auto part = *reinterpret_cast<const MergeChunk<In, kItems>*>(outs + k * a.part_stride);
#pragma unroll
    for (int e = 0; e < kItems; ++e) mixed[e] = fmaf(weight, to_float(part.item[e]), mixed[e]);
  }
  if (column == 0 && a.lse) a.lse[row] = sum == 0.0f ? -kInfinity : most + logf(sum);
  if (!inside) return;
  const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
  MergeChunk<Out, kItems> whole;
#pragma unroll
  for (int e = 0; e < kItems; ++e) whole.item[e] = from_float<Out>(mixed[e] * factor);
  *reinterpret_cast<MergeChunk<Out, kItems>*>(static_cast<Out*>(a.out) + row * s.width + column) = whole;
}

// Whether chunks of `items` numbers of the parts lie aligned, and the answer's with them.
inline bool merges_chunks(const MergeAttentionArgs& a, int64_t items, size_t in_bytes, size_t out_bytes) {
  const int64_t strides = a.part_stride | a.outs.batch_stride | a.outs.head_stride | a.outs.row_stride | a.shape.width;
  const auto chunk = static_cast<uintptr_t>(items);
  return strides % items == 0 && reinterpret_cast<uintptr_t>(a.outs.data) % (chunk * in_bytes) == 0 &&
         reinterpret_cast<uintptr_t>(a.out) % (chunk * out_bytes) == 0;
}

template <class In, class Out>
void launch_merge(const MergeAttentionArgs& a, void* stream) {
  constexpr int kItems = 16 / static_cast<int>(sizeof(In));
  const bool wide = merges_chunks(a, kItems, sizeof(In), sizeof(Out));
  const int64_t items = wide ? kItems : 1;
  const int64_t chunks = a.shape.width == 0 ? 1 : (a.shape.width + items - 1) / items;
  const int64_t blocks = (a.shape.batch * a.shape.heads * a.shape.rows * chunks + kMergeThreads - 1) / kMergeThreads;
  const auto kernel = wide ? &merge_attention_kernel<In, Out, kItems> : &merge_attention_kernel<In, Out, 1>;
  launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kMergeThreads), 0, stream, a, chunks);
}

}  // namespace tk::tree::gpu
