// SPDX-License-Identifier: Apache-2.0
#include "select/split_bits.h"

#include <algorithm>
#include <cmath>

namespace tk::selection::ref {
namespace {

template <class T>
void split_row(const SplitBitsArgs& a, int64_t row) {
  const T* x = row_of<T>(a, row);
  int8_t* high = a.high + row * a.width;
  uint8_t* low = a.low + row * low_bytes(a.width, a.bits.low);
  float largest = 0.0f;
  for (int64_t d = 0; d < a.width; ++d) {
    const float size = std::fabs(to_float(x[d]));
    largest = std::isnan(size) ? INFINITY : std::max(largest, size);
  }
  const float scale = scale_of(largest, most_of(a.bits));
  a.scale[row] = scale;
  std::fill_n(low, low_bytes(a.width, a.bits.low), uint8_t{0});
  for (int64_t d = 0; d < a.width; ++d) {
    const int32_t n = whole_number(to_float(x[d]), scale, most_of(a.bits));
    high[d] = static_cast<int8_t>(n >> a.bits.low);
    if (a.bits.low > 0) {
      const int32_t rest = n - high[d] * (1 << a.bits.low);
      low[d / 2] = static_cast<uint8_t>(low[d / 2] | rest << (d % 2 * 4));
    }
  }
}

}  // namespace

void split_bits(const SplitBitsArgs& a) {
  for (int64_t row = 0; row < a.batch * a.heads * a.rows; ++row) {
    TK_FLOAT_SWITCH(a.dtype, T, split_row<T>(a, row))
  }
}

}  // namespace tk::selection::ref
