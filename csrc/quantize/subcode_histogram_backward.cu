// SPDX-License-Identifier: Apache-2.0
#include "quantize/subcode_histogram_backward.cuh"

namespace tk::quantize::gpu {

size_t subcode_histogram_backward_workspace(const SubcodeHistogramBackwardArgs&) { return 0; }

void subcode_histogram_backward(const SubcodeHistogramBackwardArgs& a, const GpuContext& context) {
  const int64_t items = a.rows * a.groups;
  if (items == 0) return;
  const dim3 grid(static_cast<unsigned>((items + kSubcodeWarps - 1) / kSubcodeWarps));
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(subcode_histogram_backward_kernel<T>, grid, dim3(kSubcodeThreads), 0, context.stream, a))
}

}  // namespace tk::quantize::gpu
