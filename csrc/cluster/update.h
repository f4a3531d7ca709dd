// SPDX-License-Identifier: Apache-2.0
// update: centroids from the rows of each cluster, in two halves that can also run alone (rows spread over machines
// meet between them): sums and counts of the rows, then means and shift.
//
//   x          (B, N, D)  float32, float16 or bfloat16
//   labels     (B, N)     int64, every value in [0, K); checked by the caller where the memory is on the host
//   old        (B, K, D)  dtype of x
//   sums       (B, K, D)  float32; null: not wanted. Given, with counts, where the rows are not added up
//   counts     (B, K)     int64
//   centroids  (B, K, D)  dtype of x
//   shift      (B)        float32, max over k of |c'_k - c_k|; NaN as soon as one of them is
//
// l2:     sums[k] = sum of x_n over the n with label k, c'_k = sums[k] / counts[k]
// cosine: sums[k] = sum of x_n / |x_n|,                 c'_k = sums[k] / |sums[k]|; a zero row adds nothing
//
// Sums run in float32 in ascending n, cut by N alone, and c' is rounded once. An empty cluster, and for cosine a sum of
// zero, keeps its old centroid bit for bit. A NaN reaches the centroid of its row only. On a device a row with a label
// outside [0, K) belongs to no cluster.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::cluster {

struct UpdateArgs {
  const void* x;
  const int64_t* labels;
  const void* old;
  float* sums;
  int64_t* counts;
  void* centroids;
  float* shift;
  DType dtype;
  Metric metric;
  bool add_rows;                         // the first half: x, labels -> sums, counts
  bool move_centroids;                   // the second half: sums, counts, old -> centroids, shift
  int64_t batch, rows, clusters, width;  // B, N, K, D
  int64_t x_batch_stride, x_row_stride;  // in elements
  int64_t old_batch_stride, old_row_stride;
};

TK_DECLARE_OP(update, UpdateArgs)

}  // namespace tk::cluster
