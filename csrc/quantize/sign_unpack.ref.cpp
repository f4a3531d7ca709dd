// SPDX-License-Identifier: Apache-2.0
#include "quantize/sign_unpack.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void unpack_row(const SignUnpackArgs& a, int64_t n) {
  T* x = static_cast<T*>(a.x) + n * a.split.channels;
  for (int64_t g = 0; g < a.split.groups; ++g) {
    const int width = group_width(a.split, g);
    const int64_t id = a.ids[n * a.split.groups + g];
    for (int j = 0; j < width; ++j) {
      const bool bit = id >> (a.split.high_first ? width - 1 - j : j) & 1;
      x[j] = from_float<T>(bit ? a.scale : -a.scale);
    }
    x += width;
  }
}

}  // namespace

void sign_unpack(const SignUnpackArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) TK_FLOAT_SWITCH(a.dtype, T, unpack_row<T>(a, n))
}

}  // namespace tk::quantize::ref
