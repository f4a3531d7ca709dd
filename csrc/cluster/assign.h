// SPDX-License-Identifier: Apache-2.0
// assign: for every row its nearest centroid; the (N, K) matrix of distances is never stored.
//
//   x          (B, N, D)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   centroids  (B, K, D)  dtype of x; likewise; 1 <= K < 2^31
//   labels     (B, N)     int64
//   best       (B, N)     float32
//
// l2:     labels[n] = argmin_k |x_n - c_k|^2, best[n] = max(0, |x_n|^2 + |c_k|^2 - 2 x_n.c_k)
// cosine: labels[n] = argmax_k x_n.c_k / (|x_n| |c_k|), best[n] = that cosine; a zero vector has cosine 0
//
// Products and norms are summed in float32; the lowest index wins a tie. A centroid that is not finite is never chosen.
// A row that is not finite, or meets no finite centroid, has label 0 and best NaN. "Not finite" means a NaN or an
// infinity, and for l2 also a squared norm that overflows float32. Vectors with a norm outside [2^-60, 2^60] may lose
// digits or overflow.
#pragma once
#include "core/metric.h"
#include "core/op.h"
#include "quantize/nearest.h"

namespace tk::cluster {

struct AssignArgs {
  const void* x;
  const void* centroids;
  int64_t* labels;
  float* best;
  DType dtype;
  Metric metric;
  int64_t batch, rows, clusters, width;  // B, N, K, D
  int64_t x_batch_stride, x_row_stride;  // in elements
  int64_t c_batch_stride, c_row_stride;
};

// Centroids are codes, and samples books.
TK_INLINE quantize::NearestArgs nearest_args(const AssignArgs& a) {
  return {{a.x, a.centroids, a.dtype, a.metric, a.batch, a.rows, a.clusters, a.width, a.x_batch_stride, a.x_row_stride,
           a.c_batch_stride, a.c_row_stride},
          a.labels,
          a.best,
          nullptr,
          nullptr};
}

TK_DECLARE_OP(assign, AssignArgs)

}  // namespace tk::cluster
