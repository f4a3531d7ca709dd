// SPDX-License-Identifier: Apache-2.0
// map_density: the share of all (query, key) pairs that a block map keeps,
// out[b, h] = sum_ij map[b, h, i, j] size_q[b, h, i] size_k[b, h, j] / sum_ij size_q[b, h, i] size_k[b, h, j].
//
//   map     (B, H, Q, K)  uint8, not 0 where a block is kept; rows contiguous, any outer strides
//   size_q  (B, H, Q)     int64, no less than 0; the product of both totals fits int64, checked by the caller where the
//   size_k  (B, H, K)     int64  memory is on the host
//   out     (B, H)        float32
//
// Both sums are exact; their quotient is taken in double and rounded. Without any pair (0 / 0) the density is 0.
#pragma once
#include "core/op.h"

namespace tk::cluster {

struct MapDensityArgs {
  const uint8_t* map;
  const int64_t* size_q;
  const int64_t* size_k;
  float* out;
  int64_t groups, heads, queries, keys;           // B * H, H, Q, K
  int64_t batch_stride, head_stride, row_stride;  // of map
};

TK_INLINE float density_of(int64_t kept, int64_t all) {
  return all == 0 ? 0.0f : static_cast<float>(static_cast<double>(kept) / static_cast<double>(all));
}

TK_DECLARE_OP(map_density, MapDensityArgs)

}  // namespace tk::cluster
