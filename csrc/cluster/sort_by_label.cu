// SPDX-License-Identifier: Apache-2.0
#include "cluster/sort_by_label.cuh"

namespace tk::cluster::gpu {
namespace {

using merge::gpu::Carver;
using merge::gpu::MemberSpace;

merge::SegmentIndex index_of(const SortByLabelArgs& a) { return {nullptr, a.labels, a.tokens ? a.tokens : 1}; }

}  // namespace

size_t sort_by_label_workspace(const SortByLabelArgs& a) {
  Carver carver{nullptr};
  const MemberSpace space(index_of(a), a.batch, a.tokens, a.clusters, carver);
  return carver.used;
}

void sort_by_label(const SortByLabelArgs& a, const GpuContext& context) {
  if (a.batch == 0) return;
  Carver carver{static_cast<char*>(context.workspace)};
  MemberSpace space(index_of(a), a.batch, a.tokens, a.clusters, carver);
  space.offsets = a.offsets;
  merge::gpu::build_members(index_of(a), space, context);
  const int64_t total = a.batch * a.tokens;
  if (total == 0) return;
  launch(widen_order_kernel<kWidenThreads>, dim3(static_cast<unsigned>((total + kWidenThreads - 1) / kWidenThreads)),
         dim3(kWidenThreads), 0, context.stream, space.order, a.offsets, a.perm, total, a.tokens, a.clusters);
}

}  // namespace tk::cluster::gpu
