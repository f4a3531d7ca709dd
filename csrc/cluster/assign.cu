// SPDX-License-Identifier: Apache-2.0
#include "cluster/assign.h"

namespace tk::cluster::gpu {

size_t assign_workspace(const AssignArgs& a) { return quantize::gpu::nearest_workspace(nearest_args(a)); }

void assign(const AssignArgs& a, const GpuContext& context) { quantize::gpu::nearest(nearest_args(a), context); }

}  // namespace tk::cluster::gpu
