// SPDX-License-Identifier: Apache-2.0
#include "cluster/assign.h"
#include "core/nearest_column.h"

namespace tk::cluster::gpu {
namespace {

::tk::gpu::NearestColumn search_of(const AssignArgs& a) {
  return {a.x,        a.centroids, a.dtype,          a.metric,       a.batch,          a.rows,
          a.clusters, a.width,     a.x_batch_stride, a.x_row_stride, a.c_batch_stride, a.c_row_stride,
          a.labels,   a.best,      nullptr,          nullptr};
}

}  // namespace

size_t assign_workspace(const AssignArgs& a) { return ::tk::gpu::nearest_column_workspace(search_of(a)); }

void assign(const AssignArgs& a, const GpuContext& context) { ::tk::gpu::nearest_column(search_of(a), context); }

}  // namespace tk::cluster::gpu
