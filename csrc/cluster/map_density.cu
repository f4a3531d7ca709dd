// SPDX-License-Identifier: Apache-2.0
#include "cluster/map_density.cuh"

namespace tk::cluster::gpu {

size_t map_density_workspace(const MapDensityArgs&) { return 0; }

void map_density(const MapDensityArgs& a, const GpuContext& context) {
  if (a.groups == 0) return;
  launch(map_density_kernel<kDensityThreads>, dim3(static_cast<unsigned>(a.groups)), dim3(kDensityThreads), 0,
         context.stream, a);
}

}  // namespace tk::cluster::gpu
