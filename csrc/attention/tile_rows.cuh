// SPDX-License-Identifier: Apache-2.0
// Rows of queries, keys and values in shared memory. A row is kWidth elements, in chunks of 16 bytes; chunk c of row r
// lies at place c ^ (r % 8). Eight rows at one chunk (ldmatrix, or eight lanes at eight keys) and eight chunks of one
// row then both meet all banks once.
#pragma once
#include "attention/query_tile.cuh"

namespace tk::attention::gpu {

template <class T>
struct alignas(16) ChunkOf {
  static constexpr int kItems = 16 / static_cast<int>(sizeof(T));
  T item[kItems];
};

template <class T, int kWidth>
__device__ __forceinline__ int place(int row, int chunk) {
  static_assert(kWidth / ChunkOf<T>::kItems >= 8, "chunks change places within eight");
  return row * kWidth + (chunk ^ (row & 7)) * ChunkOf<T>::kItems;
}

// A row of global memory. `wide`: its address and width are whole chunks.
template <class T>
struct RowSource {
  const T* data;
  int64_t stride;
  int width, chunks;  // elements; chunks that are filled, behind the width with zeros
  bool wide;
};

// `chunks` covers the depth of a tensor core's product: 16 elements. Widths are whole chunks where rows are wide.
template <class T>
__device__ __forceinline__ RowSource<T> row_source(const HeadRows& x, int64_t b, int64_t h, int64_t width, bool wide) {
  const T* data = static_cast<const T*>(x.data) + b * x.batch_stride + h * x.head_stride;
  const int padded = static_cast<int>(divided_up(width, 16) * 16);
  return {data, x.row_stride, static_cast<int>(width), padded / ChunkOf<T>::kItems, wide};
}

// One chunk of row `index`, zeros for index -1. Arrives with the next cp.async group at the latest.
template <class T>
__device__ __forceinline__ void load_chunk(T* to, const RowSource<T>& from, int64_t index, int chunk) {
  constexpr int kItems = ChunkOf<T>::kItems;
  const T* row = from.data + (index < 0 ? 0 : index * from.stride) + chunk * kItems;
  if (from.wide) {
    const bool valid = index >= 0 && chunk * kItems < from.width;
    cp_async16_or_zero(to, valid ? row : from.data, valid);
    return;
  }
  ChunkOf<T> copy;
#pragma unroll
  for (int e = 0; e < kItems; ++e) copy.item[e] = index >= 0 && chunk * kItems + e < from.width ? row[e] : T{};
  *reinterpret_cast<ChunkOf<T>*>(to) = copy;
}

// Rows of a tile of queries, zeros behind its end.
template <class T, int kRows, int kWidth, int kThreads>
__device__ __forceinline__ void load_rows(T* to, const RowSource<T>& from, const TileRows& tile) {
  constexpr int kChunks = kWidth / ChunkOf<T>::kItems;
  for (int u = threadIdx.x; u < kRows * kChunks; u += kThreads) {
    const int row = u / kChunks;
    const int chunk = u % kChunks;
    const int64_t index = tile.begin + row < tile.end ? tile.begin + row : -1;
    if (chunk < from.chunks) load_chunk(to + place<T, kWidth>(row, chunk), from, index, chunk);
  }
}

// Rows of a list of keys, from two arrays of the same widths.
template <class T, int kKeys, int kWidth, int kThreads>
__device__ __forceinline__ void load_any_listed(T* keys, T* values, const RowSource<T>& k, const RowSource<T>& v,
                                                const int (&list)[kKeys]) {
  constexpr int kChunks = kWidth / ChunkOf<T>::kItems;
  for (int u = threadIdx.x; u < kKeys * kChunks; u += kThreads) {
    const int row = u / kChunks;
    const int chunk = u % kChunks;
    if (chunk >= k.chunks) continue;
    load_chunk(keys + place<T, kWidth>(row, chunk), k, list[row], chunk);
    load_chunk(values + place<T, kWidth>(row, chunk), v, list[row], chunk);
  }
}

// The same; of half precision, where products leave registers for it, with one multiply-add an address: bytes between
// rows are 32 bits, and what is not there has the address of row 0.
template <class T, int kKeys, int kWidth, int kThreads>
__device__ __forceinline__ void load_listed(T* keys, T* values, const RowSource<T>& k, const RowSource<T>& v,
                                            const int (&list)[kKeys]) {
  constexpr int kItems = ChunkOf<T>::kItems;
  constexpr int kChunks = kWidth / kItems;
  constexpr int kRowStep = kThreads / kChunks;  // a thread copies one chunk of every so many rows
  static_assert(kThreads % kChunks == 0 && kKeys % kRowStep == 0, "the same number of rows for every thread");
  constexpr int64_t kMostStride = (int64_t{1} << 32) / sizeof(T) - 1;
  if (sizeof(T) == 4 || !k.wide || k.stride > kMostStride || v.stride > kMostStride) {
    return load_any_listed<T, kKeys, kWidth, kThreads>(keys, values, k, v, list);
  }
  const int chunk = threadIdx.x % kChunks;
  const int first = threadIdx.x / kChunks;
  if (chunk >= k.chunks) return;
  const bool inside = chunk * kItems < k.width;
  const auto* k_column = reinterpret_cast<const char*>(k.data + (inside ? chunk * kItems : 0));
  const auto* v_column = reinterpret_cast<const char*>(v.data + (inside ? chunk * kItems : 0));
  const auto k_step = static_cast<uint32_t>(k.stride * static_cast<int64_t>(sizeof(T)));
  const auto v_step = static_cast<uint32_t>(v.stride * static_cast<int64_t>(sizeof(T)));
  int index[kKeys / kRowStep];  // read before the first copy, behind which the list might have changed
#pragma unroll
  for (int i = 0; i < kKeys / kRowStep; ++i) index[i] = list[first + i * kRowStep];
#pragma unroll
  for (int i = 0; i < kKeys / kRowStep; ++i) {
    const int row = first + i * kRowStep;
    const bool valid = inside && index[i] >= 0;
    const uint64_t at = index[i] >= 0 ? static_cast<uint32_t>(index[i]) : 0u;
    cp_async16_or_zero(keys + place<T, kWidth>(row, chunk), k_column + at * k_step, valid);
    cp_async16_or_zero(values + place<T, kWidth>(row, chunk), v_column + at * v_step, valid);
  }
}

// ---- values that are not finite
// --------------------------------------------------------------------------------------- A weight of zero does not
// hide a NaN or infinity. Steps in which some row does not see some key look for them.
TK_INLINE bool is_strange(float x) { return (detail::bit_cast<uint32_t>(x) & 0x7f800000u) == 0x7f800000u; }
TK_INLINE bool is_strange(f16_t x) { return (x.bits & 0x7c00u) == 0x7c00u; }
TK_INLINE bool is_strange(bf16_t x) { return (x.bits & 0x7f80u) == 0x7f80u; }

template <class T, int kKeys, int kWidth, int kThreads>
__device__ __forceinline__ void find_strange(const T* values, int chunks, unsigned (&strange)[2]) {
  constexpr int kItems = ChunkOf<T>::kItems;
  constexpr int kChunks = kWidth / kItems;
  for (int u = threadIdx.x; u < kKeys * kChunks; u += kThreads) {
    const int row = u / kChunks;
    const int chunk = u % kChunks;
    if (chunk >= chunks) continue;
    const ChunkOf<T> at = *reinterpret_cast<const ChunkOf<T>*>(values + place<T, kWidth>(row, chunk));
    bool found = false;
#pragma unroll
    for (int e = 0; e < kItems; ++e) found |= is_strange(at.item[e]);
    if (found) atomicOr(&strange[row / 32], 1u << (row % 32));
  }
}

}  // namespace tk::attention::gpu
