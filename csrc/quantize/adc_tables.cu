// SPDX-License-Identifier: Apache-2.0
#include "quantize/adc_tables.cuh"

namespace tk::quantize::gpu {
namespace {

template <class T>
void launch_adc_tables(const AdcTablesArgs& a, int64_t cells, void* stream) {
  const dim3 blocks(static_cast<unsigned>((cells + kAdcTablesThreads - 1) / kAdcTablesThreads));
  launch(adc_tables_kernel<T>, blocks, dim3(kAdcTablesThreads), 0, stream, a);
}

}  // namespace

size_t adc_tables_workspace(const AdcTablesArgs&) { return 0; }

void adc_tables(const AdcTablesArgs& a, const GpuContext& context) {
  const int64_t cells = a.queries_count * a.parts * a.codes_count;
  if (cells == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_adc_tables<T>(a, cells, context.stream))
}

}  // namespace tk::quantize::gpu
