// SPDX-License-Identifier: Apache-2.0
#include "select/farthest_points.cuh"

namespace tk::selection::gpu {
namespace {

constexpr int64_t kMostBlocks = int64_t{1} << 30;

int64_t rounded(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Whether some sample may need its first pick found; which one, only the device knows.
bool searches(const FarthestPointsArgs& a) { return !a.starts && a.start < 0; }

struct Layout {
  int64_t floats, offers, bytes;
  explicit Layout(const FarthestPointsArgs& a)
      : floats(rounded(a.batch * a.rows * static_cast<int64_t>(sizeof(float)))),
        offers(rounded(a.batch * a.picks * static_cast<int64_t>(sizeof(uint64_t)))),
        bytes((searches(a) ? 3 : 2) * floats + offers + a.batch * a.rows) {}
};

FarthestScratch scratch_in(const FarthestPointsArgs& a, void* workspace) {
  const Layout layout(a);
  auto* at = static_cast<unsigned char*>(workspace);
  FarthestScratch s;
  s.offers = reinterpret_cast<unsigned long long*>(at);
  s.scale = reinterpret_cast<float*>(at + layout.offers);
  s.score = reinterpret_cast<float*>(at + layout.offers + layout.floats);
  at += layout.offers + 2 * layout.floats;
  s.nearest = searches(a) ? reinterpret_cast<float*>(at) : nullptr;
  s.picked = at + (searches(a) ? layout.floats : 0);
  return s;
}

template <class T, Metric kMetric>
void launch_picks(const FarthestPointsArgs& a, const GpuContext& context) {
  const FarthestScratch s = scratch_in(a, context.workspace);
  const int64_t items = a.batch * a.rows;
  const auto blocks_for = [](int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); };
  launch(farthest_norms_kernel<T>, blocks_for((items * 32 + kNormThreads - 1) / kNormThreads), dim3(kNormThreads), 0,
         context.stream, a, s);
  const int64_t blocks = (a.rows + kPassRows - 1) / kPassRows;
  if (searches(a)) {
    const int64_t tiles = (a.rows + kTile - 1) / kTile;
    const int64_t all = a.batch * tiles * tiles;  // past the largest grid from 3 million rows on
    launch(farthest_nearest_kernel<T, kMetric>, blocks_for(all < kMostBlocks ? all : kMostBlocks), dim3(kTileThreads),
           0, context.stream, a, s, tiles);
    const int64_t firsts = (a.rows + kFirstRows - 1) / kFirstRows;
    launch(farthest_first_kernel<void>, blocks_for(a.batch * firsts), dim3(kPassThreads), 0, context.stream, a, s,
           firsts);
  }
  for (int64_t p = 0; p < a.picks; ++p) {
    launch(farthest_pass_kernel<T, kMetric>, blocks_for(a.batch * blocks), dim3(kPassThreads), 0, context.stream, a, s,
           p, blocks);
  }
}

}  // namespace

size_t farthest_points_workspace(const FarthestPointsArgs& a) { return static_cast<size_t>(Layout(a).bytes); }

void farthest_points(const FarthestPointsArgs& a, const GpuContext& context) {
  if (a.picks == 0 || a.batch == 0) return;
  if (a.metric == Metric::cosine) {
    TK_FLOAT_SWITCH(a.dtype, T, launch_picks<T, Metric::cosine>(a, context))
  } else {
    TK_FLOAT_SWITCH(a.dtype, T, launch_picks<T, Metric::l2>(a, context))
  }
}

}  // namespace tk::selection::gpu
