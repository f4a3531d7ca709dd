// SPDX-License-Identifier: Apache-2.0
#include "merge/scatter_add_rows.h"

namespace tk::merge::ref {
namespace {

template <class T>
void scatter_add(const ScatterAddRowsArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t n = 0; n < a.rows; ++n) {
      for (int64_t c = 0; c < a.width; ++c) {
        float sum = 0.0f;
        for (int64_t m = 0; m < a.picks; ++m) {
          if (a.index[b * a.picks + m] != n) continue;
          const float value = to_float(static_cast<const T*>(a.y)[b * a.y_batch_stride + m * a.y_row_stride + c]);
          sum += a.weight ? a.weight[b * a.picks + m] * value : value;
        }
        static_cast<T*>(a.out)[(b * a.rows + n) * a.width + c] = from_float<T>(sum);
      }
    }
  }
}

template <class T>
void gather_back(const ScatterAddRowsBackwardArgs& a) {
  for (int64_t i = 0; i < a.batch * a.picks; ++i) {
    const int64_t b = i / a.picks;
    const T* y = static_cast<const T*>(a.y) + b * a.y_batch_stride + i % a.picks * a.y_row_stride;
    const T* grad = static_cast<const T*>(a.grad) + b * a.grad_batch_stride + a.index[i] * a.grad_row_stride;
    double dot = 0.0;
    for (int64_t c = 0; c < a.width; ++c) {
      static_cast<T*>(a.grad_y)[i * a.width + c] = from_float<T>(a.weight[i] * to_float(grad[c]));
      dot += double{to_float(y[c])} * double{to_float(grad[c])};
    }
    a.grad_weight[i] = static_cast<float>(dot);
  }
}

}  // namespace

void scatter_add_rows(const ScatterAddRowsArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, scatter_add<T>(a)) }
void scatter_add_rows_backward(const ScatterAddRowsBackwardArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, gather_back<T>(a)) }

}  // namespace tk::merge::ref
