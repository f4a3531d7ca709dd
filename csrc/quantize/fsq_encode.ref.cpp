// SPDX-License-Identifier: Apache-2.0
#include "quantize/fsq_encode.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void encode_row(const FsqEncodeArgs& a, int64_t n) {
  const int axes = a.grid.axes;
  int64_t index = 0;
  int64_t weight = 1;
  for (int d = 0; d < axes; ++d) {
    const float z = to_float(static_cast<const T*>(a.z)[n * axes + d]);
    const int32_t level = grid_level_of(a.grid, d, z);
    const float code = z == z ? grid_code(a.grid, d, static_cast<float>(level)) : z;
    static_cast<T*>(a.codes)[n * axes + d] = from_float<T>(code);
    index += level * weight;
    if (d + 1 < axes) weight *= a.grid.levels[d];
  }
  a.index[n] = index;
}

}  // namespace

void fsq_encode(const FsqEncodeArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) TK_FLOAT_SWITCH(a.dtype, T, encode_row<T>(a, n))
}

}  // namespace tk::quantize::ref
