// SPDX-License-Identifier: Apache-2.0
#include "core/gpu.cuh"
#include "quantize/cluster_sums.h"

namespace tk::quantize::gpu {

size_t ema_update_workspace(const EmaUpdateArgs& a) { return cluster::gpu::update_workspace(cluster_sums(a)); }

void ema_update(const EmaUpdateArgs& a, const GpuContext& context) {
  if (a.books == 0 || a.codes == 0) return;
  cluster::gpu::update(cluster_sums(a), context);
}

}  // namespace tk::quantize::gpu
