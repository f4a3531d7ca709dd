// SPDX-License-Identifier: Apache-2.0
// adc_scan: the k best rows of codes for every query, by sums of table entries; the B x N sums are never stored.
//
//   codes   (N, M)     uint8, int32 or int64, see quantize/product_codes.h; every value in [0, K), checked by the
//   caller
//                      where the memory is on the host; N < 2^31
//   tables  (B, M, K)  float32, contiguous
//   value   (B, k)     float32, contiguous
//   index   (B, k)     int64, contiguous
//
// sum(n) = tables[b, 0, codes[n, 0]] + ... + tables[b, M - 1, codes[n, M - 1]], in float32, from 0 and in this order on
// every backend. The smallest sums come first (`largest`: the largest), the lowest index first among equals, and NaN
// after every number. 0 <= k <= N. On a device a code outside [0, K) makes its sum NaN.
#pragma once
#include "core/op.h"
#include "core/score_key.h"
#include "quantize/product_codes.h"

namespace tk::quantize {

struct AdcScanArgs {
  ProductCodes codes;
  const float* tables;
  float* value;
  int64_t* index;
  int64_t queries, codes_count, k;  // B, K
  bool largest;
};

// A row as one number, the better the smaller.
TK_INLINE uint64_t scan_key(float sum, int64_t row, bool largest) {
  const uint32_t rank = ~score_key(largest ? sum : -sum);
  return uint64_t{rank} << 32 | static_cast<uint32_t>(row);
}
TK_INLINE int64_t key_row(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

TK_DECLARE_OP(adc_scan, AdcScanArgs)

}  // namespace tk::quantize
