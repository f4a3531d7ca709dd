// SPDX-License-Identifier: Apache-2.0
#include "quantize/bucketize.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void place_item(const BucketizeArgs& a, int64_t i) {
  const float x = to_float(static_cast<const T*>(a.x)[i]);
  int64_t below = 0;
  for (int64_t m = 0; m < a.boundary_count; ++m) below += !(x <= a.boundaries[m]);
  if (a.bytes) {
    static_cast<uint8_t*>(a.index)[i] = static_cast<uint8_t>(below);
  } else {
    static_cast<int64_t*>(a.index)[i] = below;
  }
}

}  // namespace

void bucketize(const BucketizeArgs& a) {
  for (int64_t i = 0; i < a.count; ++i) TK_FLOAT_SWITCH(a.dtype, T, place_item<T>(a, i))
}

}  // namespace tk::quantize::ref
