// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "cluster/centroid_topp_map.cuh"

namespace tk::cluster::gpu {
namespace {

constexpr int64_t kSharedKeys = 4096;  // 128 KB of scores, which every architecture since sm_80 grants a block

int64_t chunks_of(const CentroidToppMapArgs& a) { return (a.queries + kMapRows - 1) / kMapRows; }
int64_t blocks_of(const CentroidToppMapArgs& a) { return a.batch * a.heads * chunks_of(a); }
size_t score_bytes(const CentroidToppMapArgs& a) { return static_cast<size_t>(kMapRows * a.keys) * sizeof(float); }

template <class T>
void launch_map(const CentroidToppMapArgs& a, const GpuContext& context) {
  const bool fits = a.keys <= kSharedKeys;
  launch(centroid_topp_map_kernel<T>, dim3(static_cast<unsigned>(blocks_of(a))), dim3(kMapThreads),
         fits ? score_bytes(a) : 0, context.stream, a, fits ? nullptr : static_cast<float*>(context.workspace),
         chunks_of(a));
}

}  // namespace

size_t centroid_topp_map_workspace(const CentroidToppMapArgs& a) {
  return a.keys <= kSharedKeys ? 0 : static_cast<size_t>(blocks_of(a)) * score_bytes(a);
}

void centroid_topp_map(const CentroidToppMapArgs& a, const GpuContext& context) {
  if (a.keys == 0 || blocks_of(a) == 0) return;
  if (a.keys > INT32_MAX) throw std::length_error("centroid_topp_map: at most 2^31 - 1 key clusters on a device");
  if (a.dtype == DType::f32) return launch_map<float>(a, context);
  if (a.dtype == DType::f16) return launch_map<f16_t>(a, context);
  launch_map<bf16_t>(a, context);
}

}  // namespace tk::cluster::gpu
