// SPDX-License-Identifier: Apache-2.0
// The device's search for the nearest column of every row, and on request the second: what cluster::assign and
// quantize::nearest launch. Their headers state the contract.
#pragma once
#include "core/metric.h"
#include "core/op.h"

namespace tk::gpu {

struct NearestColumn {
  const void* x;
  const void* y;
  DType dtype;
  Metric metric;
  int64_t batch, rows, columns, width;
  int64_t x_batch_stride, x_row_stride;  // in elements
  int64_t y_batch_stride, y_row_stride;
  int64_t* index;  // (batch, rows), like the others
  float* best;
  int64_t* second;  // or null
  float* second_best;
};

void nearest_column(const NearestColumn&, const GpuContext&);
size_t nearest_column_workspace(const NearestColumn&);

}  // namespace tk::gpu
