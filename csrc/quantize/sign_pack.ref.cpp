// SPDX-License-Identifier: Apache-2.0
#include "quantize/sign_pack.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void pack_row(const SignPackArgs& a, int64_t n) {
  const T* x = static_cast<const T*>(a.x) + n * a.split.channels;
  for (int64_t g = 0; g < a.split.groups; ++g) {
    const int width = group_width(a.split, g);
    int64_t id = 0;
    for (int j = 0; j < width; ++j) {
      const int64_t bit = to_float(x[j]) > 0.0f;
      id |= bit << (a.split.high_first ? width - 1 - j : j);
    }
    a.ids[n * a.split.groups + g] = id;
    x += width;
  }
}

}  // namespace

void sign_pack(const SignPackArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) TK_FLOAT_SWITCH(a.dtype, T, pack_row<T>(a, n))
}

}  // namespace tk::quantize::ref
