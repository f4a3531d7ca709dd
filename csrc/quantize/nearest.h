// SPDX-License-Identifier: Apache-2.0
// nearest: for every row its nearest code, and on request the second; the N x K matrix of scores is never stored.
//
//   x, codes      (Q, N, D), (Q, K, D)  see quantize/code_search.h
//   index         (Q, N)     int64
//   best          (Q, N)     float32
//   second        (Q, N)     int64, or null: not wanted
//   second_best   (Q, N)     float32, null where second is
//
// l2:     index[n] = argmin_k |x_n - c_k|^2, best[n] = max(0, |x_n|^2 + |c_k|^2 - 2 x_n.c_k)
// cosine: index[n] = argmax_k x_n.c_k / (|x_n| |c_k|), best[n] = that cosine; a zero vector has cosine 0
// dot:    index[n] = argmax_k x_n.c_k, best[n] = that product
//
// second is the nearest of the other codes, by the same rules. A row that is not finite, or meets no finite code, has
// index 0 and best NaN; where there is no second, it is -1 and second_best NaN.
#pragma once
#include "core/op.h"
#include "quantize/code_search.h"

namespace tk::quantize {

struct NearestArgs {
  CodeSearch search;
  int64_t* index;
  float* best;
  int64_t* second;
  float* second_best;
};

TK_DECLARE_OP(nearest, NearestArgs)

}  // namespace tk::quantize
