// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest_topk.cuh"

namespace tk::quantize::gpu {
namespace {

int64_t bound_count(const NearestTopkArgs& a) { return a.search.books * a.search.rows; }

int64_t part_count(const NearestTopkArgs& a, int64_t splits) {
  return splits == 1 ? 0 : splits * a.search.books * a.search.rows * kListLanes;
}

TopkScratch scratch_in(const NearestTopkArgs& a, void* workspace) {
  TopkScratch s;
  s.bound = static_cast<BestColumn*>(workspace);
  s.row = reinterpret_cast<float*>(s.bound + bound_count(a));
  s.column = s.row + a.search.books * a.search.rows;
  s.parts = reinterpret_cast<BestColumn*>(s.column + a.search.books * a.search.codes_count);
  return s;
}

template <class T>
void launch_all(const NearestTopkArgs& a, const GpuContext& context) {
  const DeviceSearch search = device_search(a.search);
  const TopkScratch s = scratch_in(a, context.workspace);
  launch_norms<T>(search, a.search.metric, s.row, s.column, context.stream);
  for (int64_t slot = 0; slot < a.k; slot += kListLanes) {
    const int count = static_cast<int>(a.k - slot < kListLanes ? a.k - slot : kListLanes);
    with_tile<T>(search, a.search.dtype, [&](auto tile, auto aligned) {
      using Tile = decltype(tile);
      launch(nearest_topk_kernel<T, Tile, decltype(aligned)::value>, search_grid(search), dim3(kSearchThreads),
             sizeof(TopkShared<Tile>), context.stream, a, search, s, slot, count);
    });
    if (search.splits == 1) continue;
    launch(topk_join_kernel<void>, warp_grid(search.batch * search.rows), dim3(kNormThreads), 0, context.stream, a, s,
           search.splits, slot, count);
  }
}

}  // namespace

size_t nearest_topk_workspace(const NearestTopkArgs& a) {
  const CodeSearch& s = a.search;
  const auto entries = static_cast<size_t>(bound_count(a) + part_count(a, device_search(s).splits));
  return entries * sizeof(BestColumn) + static_cast<size_t>(s.books * (s.rows + s.codes_count)) * sizeof(float);
}

void nearest_topk(const NearestTopkArgs& a, const GpuContext& context) {
  if (a.search.books * a.search.rows * a.k == 0) return;
  TK_FLOAT_SWITCH(a.search.dtype, T, launch_all<T>(a, context))
}

}  // namespace tk::quantize::gpu
