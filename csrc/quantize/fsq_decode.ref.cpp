// SPDX-License-Identifier: Apache-2.0
#include "quantize/fsq_decode.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void decode_row(const FsqDecodeArgs& a, int64_t n) {
  int64_t rest = a.index[n];
  for (int d = 0; d < a.grid.axes; ++d) {
    const auto level = static_cast<float>(rest % a.grid.levels[d]);
    static_cast<T*>(a.codes)[n * a.grid.axes + d] = from_float<T>(grid_code(a.grid, d, level));
    rest /= a.grid.levels[d];
  }
}

}  // namespace

void fsq_decode(const FsqDecodeArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) TK_FLOAT_SWITCH(a.dtype, T, decode_row<T>(a, n))
}

}  // namespace tk::quantize::ref
