// SPDX-License-Identifier: Apache-2.0
#include "merge/gather_rows.h"

#include <cstring>

namespace tk::merge::ref {

void gather_rows(const GatherRowsArgs& a) {
  const size_t item = item_size(a.dtype);
  const auto* x = static_cast<const unsigned char*>(a.x);
  auto* out = static_cast<unsigned char*>(a.out);
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t m = 0; m < a.picks; ++m) {
      const int64_t row = a.index[b * a.picks + m];
      const unsigned char* from = x + (b * a.x_batch_stride + row * a.x_row_stride) * item;
      std::memcpy(out + (b * a.picks + m) * a.width * item, from, a.width * item);
    }
  }
}

}  // namespace tk::merge::ref
