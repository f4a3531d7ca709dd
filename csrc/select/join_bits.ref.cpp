// SPDX-License-Identifier: Apache-2.0
#include "select/join_bits.h"

namespace tk::selection::ref {

void join_bits(const JoinBitsArgs& a) {
  for (int64_t row = 0; row < a.batch * a.heads * a.rows; ++row) {
    const JoinedRow planes = joined_row(a, row);
    for (int64_t d = 0; d < a.width; ++d) a.out[row * a.width + d] = joined(planes, d, a.low_bits);
  }
}

}  // namespace tk::selection::ref
