// SPDX-License-Identifier: Apache-2.0
#include "attention/rope_gather.h"

#include "attention/scalar.ref.h"

namespace tk::attention::ref {
namespace {

template <class T>
void turn_row(const RopeGatherArgs& a, int64_t b, int64_t n, const T* x, T* out) {
  const float* cos = a.table.cos + b * a.table.cos_batch_stride + n * a.table.cos_row_stride;
  const float* sin = a.table.sin + b * a.table.sin_batch_stride + n * a.table.sin_row_stride;
  const int64_t half = a.width / 2;
  for (int64_t d = 0; d < half; ++d) {
    const double low = to_double(x[d]);
    const double high = to_double(x[d + half]);
    assign(out + d, low * cos[d] - high * sin[d]);
    assign(out + d + half, high * cos[d + half] + low * sin[d + half]);
  }
}

template <class T>
void gather(const RopeGatherArgs& a) {
  for (int64_t i = 0; i < a.batch * a.heads * a.picks; ++i) {
    const int64_t n = i % a.picks;
    const int64_t h = i / a.picks % a.heads;
    const int64_t b = i / a.picks / a.heads;
    const T* x = head_row<T>(a.x, b, h, a.index.data[b * a.index.batch_stride + n]);
    T* out = static_cast<T*>(a.out) + i * a.width;
    if (a.table.cos) {
      turn_row(a, b, n, x, out);
    } else {
      for (int64_t d = 0; d < a.width; ++d) out[d] = x[d];
    }
  }
}

}  // namespace

void rope_gather(const RopeGatherArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, gather<T>(a)) }

}  // namespace tk::attention::ref
