// SPDX-License-Identifier: Apache-2.0
// One thread a cell, neighbouring centroids next to each other; the tables are small beside the scan.
#pragma once
#include "core/gpu.cuh"
#include "quantize/adc_tables.h"

namespace tk::quantize::gpu {

constexpr int kAdcTablesThreads = 256;

template <class T>
__global__ void __launch_bounds__(kAdcTablesThreads) adc_tables_kernel(AdcTablesArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kAdcTablesThreads + threadIdx.x;
  if (i >= a.queries_count * a.parts * a.codes_count) return;
  const int64_t k = i % a.codes_count;
  const int64_t m = i / a.codes_count % a.parts;
  const int64_t b = i / a.codes_count / a.parts;
  const T* q = static_cast<const T*>(a.queries) + b * a.query_stride + m * a.width;
  const T* c = static_cast<const T*>(a.centroids) + m * a.part_stride + k * a.centroid_stride;
  float sum = 0;
  for (int64_t d = 0; d < a.width; ++d) {
    const float x = to_float(q[d]);
    const float y = to_float(c[d]);
    sum = a.products ? fmaf(x, y, sum) : fmaf(x - y, x - y, sum);
  }
  a.tables[i] = sum;
}

}  // namespace tk::quantize::gpu
