// SPDX-License-Identifier: Apache-2.0
// One block a row: the cut, a list of the kept keys in the workspace, and the sum of their values.
#pragma once
#include "select/key_cut.cuh"
#include "select/local_value_attention.h"
#include "select/weigh_values.cuh"

namespace tk::selection::gpu {

struct ListChosen {
  uint32_t* list;
  TK_HOST_DEVICE void operator()(int64_t j, bool chosen, int64_t position) const {
    if (chosen) list[position] = static_cast<uint32_t>(j);
  }
};

template <class T>
struct KeptValues {
  const T* prob;
  const T* v;
  const uint32_t* list;
  int64_t stride;
  TK_HOST_DEVICE float weight(int64_t i) const { return to_float(prob[list[i]]); }
  TK_HOST_DEVICE float value(int64_t i, int64_t d) const { return to_float(v[list[i] * stride + d]); }
};

template <class T>
struct WriteRow {
  T* out;
  TK_HOST_DEVICE void operator()(int64_t d, float sum) const { out[d] = from_float<T>(sum); }
};

// lists: (B * H * Q, keep).
template <class T>
__global__ void __launch_bounds__(kSumThreads) local_value_kernel(LocalValueAttentionArgs a, uint32_t* lists) {
  const int64_t row = blockIdx.x;
  const RowKeys<T> keys = row_keys<T>(prob_rows(a), row);
  uint32_t* list = lists + row * a.keep;
  if (a.keep > 0) walk_items(keys, find_key_cut(keys, a.keep), ListChosen{list});
  const KeptValues<T> kept{keys.score, values_of<T>(a, row), list, a.v.row_stride};
  weigh_values(kept, a.keep, a.width, WriteRow<T>{static_cast<T*>(a.out) + row * a.width});
}

}  // namespace tk::selection::gpu
