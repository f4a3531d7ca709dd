// SPDX-License-Identifier: Apache-2.0
// One block a row: the cut at its count, the first of its largest keys, and one walk over the row.
#pragma once
#include "select/key_cut.cuh"
#include "tree/masked_transfer.h"

namespace tk::tree::gpu {

using selection::gpu::RowKeys;

constexpr int kTransferThreads = selection::gpu::kThreads;

// Of the best item: keys first, then low positions; every thread gets it.
template <class T>
__device__ __forceinline__ uint64_t best_item(const RowKeys<T>& keys) {
  TK_SHARED(warps, uint64_t[kTransferThreads / 32]);
  uint64_t best = 0;
  for (int64_t j = threadIdx.x; j < keys.n; j += blockDim.x) {
    const uint64_t item = uint64_t{keys(j)} << 32 | (0xffffffffu - static_cast<uint32_t>(j));
    best = item > best ? item : best;
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, lanes);
    best = other > best ? other : best;
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / 32; ++w) best = warps[w] > best ? warps[w] : best;
  return best;
}

template <class T>
struct FixChosen {
  const RowKeys<T>& keys;
  uint8_t* out;
  uint32_t least;
  int64_t best;
  TK_HOST_DEVICE void operator()(int64_t j, bool chosen, int64_t) const {
    const uint32_t key = keys(j);
    out[j] = chosen && key != selection::kMaskedKey && (key >= least || j == best);
  }
};

template <class T>
__global__ void __launch_bounds__(kTransferThreads) masked_transfer_kernel(MaskedTransferArgs a) {
  const int64_t row = blockIdx.x;
  const RowKeys<T> keys = selection::gpu::row_keys<T>(a.from, row);
  const int64_t k = transfer_count(a, row);
  selection::KeyCut cut{0xffffffffu, 0};
  if (k > 0) cut = selection::gpu::find_key_cut(keys, k);
  const int64_t best = a.least_key > 0 ? int64_t{0xffffffffu - static_cast<uint32_t>(best_item(keys))} : -1;
  selection::gpu::walk_items(keys, cut, FixChosen<T>{keys, a.out + row * a.from.width, a.least_key, best});
}

}  // namespace tk::tree::gpu
