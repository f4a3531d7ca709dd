// SPDX-License-Identifier: Apache-2.0
#include "merge/compact_rows.h"

namespace tk::merge::ref {

void count_rows(const CountRowsArgs& a) {
  a.cu_seqlens[0] = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    int64_t kept = 0;
    for (int64_t n = 0; n < a.tokens; ++n) kept += a.mask[b * a.mask_batch_stride + n] != 0;
    a.cu_seqlens[b + 1] = a.cu_seqlens[b] + kept;
  }
}

void compact_rows(const CompactRowsArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    int64_t place = a.cu_seqlens[b];
    for (int64_t n = 0; n < a.tokens && place < a.cu_seqlens[b + 1]; ++n) {
      if (a.mask[b * a.mask_batch_stride + n]) a.index[place++] = b * a.tokens + n;
    }
  }
}

}  // namespace tk::merge::ref
