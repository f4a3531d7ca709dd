// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_broadcast.h"

#include <algorithm>
#include <cstring>

namespace tk::merge::ref {
namespace {

int64_t segment_of(const SegmentBroadcastArgs& a, int64_t b, int64_t token) {
  if (a.index.ids) return a.index.ids[b * a.index.batch_stride + token];
  const int64_t* ends = a.index.offsets + b * a.index.batch_stride + 1;
  return std::upper_bound(ends, ends + a.segments, token) - ends;
}

}  // namespace

void segment_broadcast(const SegmentBroadcastArgs& a) {
  const size_t item = item_size(a.dtype);
  const size_t row_bytes = a.width * item;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t n = 0; n < a.tokens; ++n) {
      char* to = static_cast<char*>(a.out) + (b * a.tokens + n) * row_bytes;
      const int64_t s = segment_of(a, b, n);
      const char* from = static_cast<const char*>(a.y) + (b * a.y_batch_stride + s * a.y_row_stride) * item;
      if (s < 0) {
        std::memset(to, 0, row_bytes);
      } else {
        std::memcpy(to, from, row_bytes);
      }
    }
  }
}

}  // namespace tk::merge::ref
