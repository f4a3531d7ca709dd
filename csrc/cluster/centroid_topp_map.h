// SPDX-License-Identifier: Apache-2.0
// centroid_topp_map: for every query centroid the fewest key clusters whose estimated share of the attention passes p.
//   s = scale * <qc[b, h, i], kc[b, h, j]>,  m = max_j s,  e_j = size_k[b, h, j] * exp(s_j - m),
//   P_j = e_j / max(sum_j e_j, 1e-12)
// In descending P (ties: ascending j) a cluster is kept while those before it have at most the mass p; the first
// `forced` ones always are. The maximum includes empty clusters, whose P is 0.
//
//   qc      (B, H, Q, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   kc      (B, H, K, D)  dtype of qc; rows contiguous, any outer strides
//   size_k  (B, H, K)     int64, no less than 0
//   map     (B, H, Q, K)  uint8, 1 where kept, contiguous
//   prob    (B, H, Q, K)  float32, contiguous, or null
//
// Sums of scores and of e run in float32. Mass is counted in units of 2^-60: a sum of integers has no order, so the map
// is the same function of P in every backend. A row whose P is NaN (a NaN or infinite score) keeps every cluster: the
// attention behind the map then shows the NaN.
#pragma once
#include "core/mass_cut.h"
#include "core/op.h"

namespace tk::cluster {

constexpr float kLeastMass = 1e-12f;
constexpr double kMassUnits = 0x1p60;
constexpr int64_t kNoLimit = INT64_MAX;

struct CentroidToppMapArgs {
  const void* qc;
  const void* kc;
  const int64_t* size_k;
  uint8_t* map;
  float* prob;
  DType dtype;
  int64_t batch, heads, queries, keys, width;           // B, H, Q, K, D
  int64_t q_batch_stride, q_head_stride, q_row_stride;  // in elements
  int64_t k_batch_stride, k_head_stride, k_row_stride;
  float scale;
  int64_t limit;   // p in units of mass; kNoLimit keeps everything
  int64_t forced;  // at least 1
};

// A share in [0, 1], rounded down; multiplying by a power of two is exact.
TK_INLINE int64_t mass_units(float share) { return static_cast<int64_t>(share * static_cast<float>(kMassUnits)); }

TK_DECLARE_OP(centroid_topp_map, CentroidToppMapArgs)

}  // namespace tk::cluster
