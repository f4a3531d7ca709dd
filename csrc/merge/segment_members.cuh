// SPDX-License-Identifier: Apache-2.0
// Tokens grouped by segment, on a device: a stable counting sort of the ids of every batch row, with integer atomics
// only. Rows of up to kSortChunk tokens take one block; longer rows are cut into chunks that are counted and placed by
// themselves.
#pragma once
#include "core/gpu.cuh"
#include "merge/segment_index.h"

namespace tk::merge::gpu {

constexpr int kSortThreads = 256;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int64_t kSortChunk = 4096;   // tokens that one block sorts alone
constexpr int64_t kSortChunks = 64;    // of one row at most, because each has a count of every segment
constexpr int64_t kSortShared = 4096;  // segments whose counts fit shared memory

// Segment s of batch row b has the members [offsets[s], offsets[s + 1]) of the row; member i is token order[i], or i
// itself where order is null.
struct Members {
  const int64_t* offsets;
  const int* order;
  int64_t offsets_stride, order_stride;  // 0 where one row serves the whole batch

  __device__ const int64_t* offsets_of(int64_t b) const { return offsets + b * offsets_stride; }
  __device__ int64_t token(int64_t b, int64_t member) const {
    return order ? order[b * order_stride + member] : member;
  }
};

// Cuts a workspace into parts, each aligned for any access; without memory it only measures.
struct Carver {
  char* workspace;
  size_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* part = workspace ? reinterpret_cast<T*>(workspace + used) : nullptr;
    used += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return part;
  }
};

// What the sort needs in the workspace.
struct MemberSpace {
  int64_t rows, tokens, segments, chunks, chunk;  // `chunk` tokens each
  int64_t* offsets;                               // (rows, segments + 1)
  int* order;                                     // (rows, tokens)
  int* counts;                                    // (rows, chunks, segments)
  int* totals;                                    // (rows, segments), only with several chunks

  MemberSpace(const SegmentIndex& index, int64_t batch, int64_t tokens, int64_t segments, Carver& carver);
};

// Sorts, where the index is by ids, and describes the members of every row.
Members build_members(const SegmentIndex& index, const MemberSpace& space, const GpuContext& context);

// P neighbouring elements of a row, moved at once.
template <class T, int P>
struct alignas(sizeof(T) * P) Channels {
  T item[P];
};

// Out of range drops the token: nobody can raise here.
__device__ inline int id_at(const int64_t* ids, int64_t token, int64_t segments) {
  const int64_t id = ids[token];
  return id >= 0 && id < segments ? static_cast<int>(id) : -1;
}

__device__ inline void clear_counts(int* counts, int64_t segments) {
  for (int64_t s = threadIdx.x; s < segments; s += kSortThreads) counts[s] = 0;
  __syncthreads();
}

__device__ inline void count_tokens(const int64_t* ids, int64_t begin, int64_t end, int64_t segments, int* counts) {
  clear_counts(counts, segments);
  for (int64_t n = begin + threadIdx.x; n < end; n += kSortThreads) {
    const int id = id_at(ids, n, segments);
    if (id >= 0) atomicAdd(&counts[id], 1);
  }
  __syncthreads();
}

// offsets[s] = sum of totals before s, by one block; `sums` is shared.
__device__ inline void scan_totals(const int* totals, int64_t segments, int64_t* offsets, int (&sums)[kSortWarps]) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int64_t base = 0;
  for (int64_t start = 0; start < segments; start += kSortThreads) {
    const int64_t s = start + threadIdx.x;
    const int own = s < segments ? totals[s] : 0;
    int inclusive = own;
    for (int step = 1; step < 32; step *= 2) {
      const int before = __shfl_up_sync(kAllLanes, inclusive, step);
      if (lane >= step) inclusive += before;
    }
    if (lane == 31) sums[warp] = inclusive;
    __syncthreads();
    int64_t earlier = base;
    for (int w = 0; w < kSortWarps; ++w) {
      if (w < warp) earlier += sums[w];
      base += sums[w];
    }
    if (s < segments) offsets[s] = earlier + inclusive - own;
    __syncthreads();
  }
  if (threadIdx.x == 0) offsets[segments] = base;
  __syncthreads();
}

// The lanes of this warp that hold the same value, for values below 2^bits.
__device__ inline unsigned same_lanes(int value, int bits) {
  unsigned same = kAllLanes;
  for (int bit = 0; bit < bits; ++bit) {
    const bool set = (value >> bit & 1) != 0;
    const unsigned having = __ballot_sync(kAllLanes, set);
    same &= set ? having : ~having;
  }
  return same;
}

// Places tokens in ascending order: warps of a tile take turns, lanes rank themselves. `taken` counts the members of
// each segment placed before.
__device__ inline void place_tokens(const int64_t* ids, int64_t begin, int64_t end, int64_t segments,
                                    const int64_t* offsets, int* taken, int* order) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int bits = 32 - __clz(static_cast<int>(segments));
  for (int64_t start = begin; start < end; start += kSortThreads) {
    const int64_t n = start + threadIdx.x;
    const int id = n < end ? id_at(ids, n, segments) : -1;
    // An id is at most segments - 1, so that `segments` marks the dropped.
    const unsigned same = same_lanes(id < 0 ? static_cast<int>(segments) : id, bits);
    const int rank = __popc(same & ((1u << lane) - 1u));
    for (int turn = 0; turn < kSortWarps; ++turn) {
      if (turn == warp) {
        const int before = id < 0 ? 0 : taken[id];
        if (id >= 0) order[offsets[id] + before + rank] = static_cast<int>(n);
        __syncwarp();
        if (id >= 0 && rank == 0) taken[id] = before + __popc(same);
      }
      __syncthreads();
    }
  }
}

// One block a row, for rows of one chunk.
template <bool kShared>
__global__ void __launch_bounds__(kSortThreads) sort_row_kernel(const int64_t* ids, MemberSpace space) {
  TK_SHARED(sums, int[kSortWarps]);
  TK_DYNAMIC_SHARED(int, shared_counts);
  const int64_t r = blockIdx.x;
  int* counts = kShared ? shared_counts : space.counts + r * space.segments;
  int64_t* offsets = space.offsets + r * (space.segments + 1);
  ids += r * space.tokens;
  count_tokens(ids, 0, space.tokens, space.segments, counts);
  scan_totals(counts, space.segments, offsets, sums);
  clear_counts(counts, space.segments);
  place_tokens(ids, 0, space.tokens, space.segments, offsets, counts, space.order + r * space.tokens);
}

__device__ inline int64_t chunk_start(const MemberSpace& space, int64_t chunk) {
  return chunk * space.chunk < space.tokens ? chunk * space.chunk : space.tokens;
}

template <int kUnused = 0>
__global__ void __launch_bounds__(kSortThreads) count_chunk_kernel(const int64_t* ids, MemberSpace space) {
  const int64_t r = blockIdx.x / space.chunks;
  const int64_t chunk = blockIdx.x % space.chunks;
  count_tokens(ids + r * space.tokens, chunk_start(space, chunk), chunk_start(space, chunk + 1), space.segments,
               space.counts + blockIdx.x * space.segments);
}

// Turns the counts of one segment into the number of its members in earlier chunks.
template <int kUnused = 0>
__global__ void __launch_bounds__(kSortThreads) sum_chunks_kernel(MemberSpace space) {
  const int64_t i = int64_t{blockIdx.x} * kSortThreads + threadIdx.x;
  if (i >= space.rows * space.segments) return;
  int* counts = space.counts + i / space.segments * space.chunks * space.segments + i % space.segments;
  int sum = 0;
  for (int64_t chunk = 0; chunk < space.chunks; ++chunk) {
    const int own = counts[chunk * space.segments];
    counts[chunk * space.segments] = sum;
    sum += own;
  }
  space.totals[i] = sum;
}

template <int kUnused = 0>
__global__ void __launch_bounds__(kSortThreads) scan_totals_kernel(MemberSpace space) {
  TK_SHARED(sums, int[kSortWarps]);
  const int64_t r = blockIdx.x;
  scan_totals(space.totals + r * space.segments, space.segments, space.offsets + r * (space.segments + 1), sums);
}

template <int kUnused = 0>
__global__ void __launch_bounds__(kSortThreads) place_chunk_kernel(const int64_t* ids, MemberSpace space) {
  const int64_t r = blockIdx.x / space.chunks;
  const int64_t chunk = blockIdx.x % space.chunks;
  place_tokens(ids + r * space.tokens, chunk_start(space, chunk), chunk_start(space, chunk + 1), space.segments,
               space.offsets + r * (space.segments + 1), space.counts + blockIdx.x * space.segments,
               space.order + r * space.tokens);
}

// The segment that holds a position, found by a whole warp; `segments` where none does.
__device__ inline int64_t warp_segment_at(const int64_t* offsets, int64_t segments, int64_t position) {
  const int lane = threadIdx.x % 32;
  int64_t low = 0;
  int64_t high = segments;
  while (low < high) {
    const int64_t step = (high - low + 31) / 32;
    const int64_t probe = low + (lane + 1) * step - 1;
    const bool before = probe < high && offsets[probe + 1] <= position;
    const int passed = __popc(__ballot_sync(kAllLanes, before));
    low += passed * step;
    high = low + step - 1 < high ? low + step - 1 : high;
  }
  return low;
}

// The segment of a token, by a whole warp; -1 where it has none.
__device__ inline int64_t warp_segment_of(const SegmentIndex& index, int64_t segments, int64_t b, int64_t token) {
  if (index.ids) return id_at(index.ids + b * index.batch_stride, token, segments);
  const int64_t s = warp_segment_at(index.offsets + b * index.batch_stride, segments, token);
  return s < segments ? s : -1;
}

}  // namespace tk::merge::gpu
