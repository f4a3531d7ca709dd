// SPDX-License-Identifier: Apache-2.0
#include "attention/block_offsets.h"

namespace tk::attention::ref {

void block_offsets(const BlockOffsetsArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    int64_t sum = 0;
    for (int64_t c = 0; c < a.blocks; ++c) {
      a.offsets[r * (a.blocks + 1) + c] = sum;
      sum += a.sizes[r * a.blocks + c];
    }
    a.offsets[r * (a.blocks + 1) + a.blocks] = a.total;
  }
}

}  // namespace tk::attention::ref
