// SPDX-License-Identifier: Apache-2.0
#include "quantize/rvq_decode.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void decode_row(const RvqDecodeArgs& a, int64_t g, int64_t n) {
  const int64_t* index = a.index + (g * a.rows + n) * a.books;
  for (int64_t d = 0; d < a.width; ++d) {
    float sum = 0;
    bool empty = true;
    for (int64_t q = 0; q < a.layers; ++q) {
      if (index[q] < 0) continue;
      const int64_t at = g * a.group_stride + q * a.book_stride + index[q] * a.code_stride + d;
      const float code = to_float(static_cast<const T*>(a.codes)[at]);
      sum = empty ? code : sum + code;
      empty = false;
    }
    static_cast<T*>(a.out)[(g * a.rows + n) * a.width + d] = from_float<T>(sum);
  }
}

}  // namespace

void rvq_decode(const RvqDecodeArgs& a) {
  for (int64_t g = 0; g < a.groups; ++g) {
    for (int64_t n = 0; n < a.rows; ++n) TK_FLOAT_SWITCH(a.dtype, T, decode_row<T>(a, g, n))
  }
}

}  // namespace tk::quantize::ref
