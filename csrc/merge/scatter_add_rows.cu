// SPDX-License-Identifier: Apache-2.0
#include "merge/scatter_add_rows.cuh"

namespace tk::merge::gpu {
namespace {

template <class T, int P>
void launch_add(const AddRows<T>& rows, void* stream) {
  const auto blocks = static_cast<unsigned>((rows.total + kAddWarps - 1) / kAddWarps);
  launch(scatter_add_rows_kernel<T, P>, dim3(blocks), dim3(kAddWarps * 32), 0, stream, rows);
}

template <class T>
void scatter_add(const ScatterAddRowsArgs& a, void* stream) {
  constexpr int kWide = 16 / sizeof(T);
  const AddRows<T> rows{static_cast<const T*>(a.y), a.index,       a.weight, static_cast<T*>(a.out),
                        a.batch * a.rows,           a.rows,        a.picks,  a.width,
                        a.y_batch_stride,           a.y_row_stride};
  const auto addresses = reinterpret_cast<uintptr_t>(a.y) | reinterpret_cast<uintptr_t>(a.out);
  const bool wide = addresses % 16 == 0 && (a.width | a.y_batch_stride | a.y_row_stride) % kWide == 0;
  if (wide) return launch_add<T, kWide>(rows, stream);
  launch_add<T, 1>(rows, stream);
}

template <class T>
void gather_back(const ScatterAddRowsBackwardArgs& a, void* stream) {
  const GatherBack<T> rows{static_cast<const T*>(a.grad),
                           static_cast<const T*>(a.y),
                           a.index,
                           a.weight,
                           static_cast<T*>(a.grad_y),
                           a.grad_weight,
                           a.batch * a.picks,
                           a.rows,
                           a.picks,
                           a.width,
                           a.grad_batch_stride,
                           a.grad_row_stride,
                           a.y_batch_stride,
                           a.y_row_stride};
  const auto blocks = static_cast<unsigned>((rows.total + kAddWarps - 1) / kAddWarps);
  launch(scatter_add_rows_backward_kernel<T>, dim3(blocks), dim3(kAddWarps * 32), 0, stream, rows);
}

}  // namespace

size_t scatter_add_rows_workspace(const ScatterAddRowsArgs&) { return 0; }

void scatter_add_rows(const ScatterAddRowsArgs& a, const GpuContext& context) {
  if (a.batch * a.rows * a.width == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, scatter_add<T>(a, context.stream))
}

size_t scatter_add_rows_backward_workspace(const ScatterAddRowsBackwardArgs&) { return 0; }

void scatter_add_rows_backward(const ScatterAddRowsBackwardArgs& a, const GpuContext& context) {
  if (a.batch * a.picks == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, gather_back<T>(a, context.stream))
}

}  // namespace tk::merge::gpu
