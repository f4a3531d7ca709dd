// SPDX-License-Identifier: Apache-2.0
#include "quantize/pq_decode.h"

namespace tk::quantize::ref {
namespace {

template <class C, class T>
void decode_rows(const PqDecodeArgs& a) {
  T* out = static_cast<T*>(a.out);
  for (int64_t n = 0; n < a.codes.rows; ++n) {
    for (int64_t m = 0; m < a.codes.parts; ++m) {
      const int64_t code = row_codes<C>(a.codes, n)[m];
      const T* centroid = static_cast<const T*>(a.centroids) + m * a.part_stride + code * a.centroid_stride;
      for (int64_t d = 0; d < a.width; ++d) *out++ = centroid[d];
    }
  }
}

}  // namespace

void pq_decode(const PqDecodeArgs& a) {
  TK_CODE_SWITCH(a.codes.dtype, C, TK_FLOAT_SWITCH(a.dtype, T, decode_rows<C, T>(a)))
}

}  // namespace tk::quantize::ref
