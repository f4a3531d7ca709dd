// SPDX-License-Identifier: Apache-2.0
// pq_decode: out[n, m d .. m d + d - 1] = centroids[m, codes[n, m], :], a bit-exact copy.
//
//   codes      (N, M)     uint8, int32 or int64, see quantize/product_codes.h; every value in [0, K), checked by the
//                         caller where the memory is on the host
//   centroids  (M, K, d)  float32, float16 or bfloat16; rows contiguous, any outer strides
//   out        (N, M d)   dtype of centroids, contiguous
//
// On a device a code outside [0, K) gives zeros: raising there would need a synchronisation.
#pragma once
#include "core/op.h"
#include "quantize/product_codes.h"

namespace tk::quantize {

struct PqDecodeArgs {
  ProductCodes codes;
  const void* centroids;
  void* out;
  DType dtype;
  int64_t codes_count, width;            // K, d
  int64_t part_stride, centroid_stride;  // in elements
};

TK_DECLARE_OP(pq_decode, PqDecodeArgs)

}  // namespace tk::quantize
