// SPDX-License-Identifier: Apache-2.0
#include "quantize/fsq_encode_backward.h"

#include <cmath>

namespace tk::quantize::ref {
namespace {

template <class T>
void differentiate(const FsqEncodeBackwardArgs& a, int64_t i) {
  const int d = static_cast<int>(i % a.grid.axes);
  const float x = to_float(static_cast<const T*>(a.z)[i]) + a.grid.shift[d];
  const float scaled = to_float(static_cast<const T*>(a.grad)[i]) * grid_slope(a.grid, d);
  const double t = std::tanh(static_cast<double>(x));
  const float through_tanh = static_cast<float>(scaled * ((1 - t) * (1 + t)));
  const float through_clamp = x >= -1 && x <= 1 ? scaled : 0.0f;
  static_cast<T*>(a.grad_z)[i] = from_float<T>(a.grid.hard_clamp ? through_clamp : through_tanh);
}

}  // namespace

void fsq_encode_backward(const FsqEncodeBackwardArgs& a) {
  for (int64_t i = 0; i < a.rows * a.grid.axes; ++i) TK_FLOAT_SWITCH(a.dtype, T, differentiate<T>(a, i))
}

}  // namespace tk::quantize::ref
