// SPDX-License-Identifier: Apache-2.0
#include "tree/residual_sample.cuh"

namespace tk::tree::gpu {

size_t residual_sample_workspace(const ResidualSampleArgs& a) {
  return static_cast<size_t>(a.rows) * 3 * static_cast<size_t>(a.width) * sizeof(float);
}

void residual_sample(const ResidualSampleArgs& a, const GpuContext& context) {
  if (a.rows == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(residual_sample_kernel<T>, dim3(static_cast<unsigned>(a.rows)),
                         dim3(static_cast<unsigned>(mass_threads(a.width))), 0, context.stream, a,
                         static_cast<float*>(context.workspace)))
}

}  // namespace tk::tree::gpu
