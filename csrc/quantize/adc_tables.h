// SPDX-License-Identifier: Apache-2.0
// adc_tables: how far every part of a query is from each of its centroids.
//
//   queries    (B, M d)   float32, float16 or bfloat16; rows contiguous, any outer stride
//   centroids  (M, K, d)  dtype of queries; rows contiguous, any outer strides
//   tables     (B, M, K)  float32, contiguous
//
// l2:  tables[b, m, k] = sum_d (q[b, m d + d] - c[m, k, d])^2
// dot: tables[b, m, k] = sum_d q[b, m d + d] c[m, k, d]
//
// Summed in float32 in ascending d; NaN propagates, d = 0 gives zeros.
#pragma once
#include "core/op.h"

namespace tk::quantize {

struct AdcTablesArgs {
  const void* queries;
  const void* centroids;
  float* tables;
  DType dtype;
  bool products;                                       // dot, else l2
  int64_t queries_count, parts, codes_count, width;    // B, M, K, d
  int64_t query_stride, part_stride, centroid_stride;  // in elements
};

TK_DECLARE_OP(adc_tables, AdcTablesArgs)

}  // namespace tk::quantize
