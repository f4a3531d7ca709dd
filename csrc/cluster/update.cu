// SPDX-License-Identifier: Apache-2.0
#include "cluster/update.cuh"

namespace tk::cluster::gpu {
namespace {

using merge::gpu::Carver;
using merge::gpu::MemberSpace;

merge::SegmentIndex index_of(const UpdateArgs& a) { return {nullptr, a.labels, a.rows ? a.rows : 1}; }

dim3 blocks_for(int64_t warps, int64_t of_a_block) {
  return dim3(static_cast<unsigned>((warps + of_a_block - 1) / of_a_block));
}

// Where the device keeps what lies between its kernels.
struct Space {
  Carver carver;
  MemberSpace members;
  int64_t slots;
  float* partial;  // (B, slots, D)
  float* weight;   // (B, N), for cosine
  float* sums;     // (B, K, D), where the caller wants none
  float* moved;    // (B, K)

  Space(const UpdateArgs& a, void* workspace)
      : carver{static_cast<char*>(workspace)},
        members(index_of(a), a.batch, a.rows, a.clusters, carver),
        slots(a.rows > kSegmentBlock ? a.rows / merge::kSlotStep : 0),
        partial(carver.take<float>(a.batch * slots * a.width)),
        weight(a.metric == Metric::cosine ? carver.take<float>(a.batch * a.rows) : nullptr),
        sums(a.sums ? a.sums : carver.take<float>(a.batch * a.clusters * a.width)),
        moved(carver.take<float>(a.batch * a.clusters)) {}
};

template <class T, int P>
void launch_sums(const UpdateArgs& a, const ReduceRows<T>& rows, float* sums, void* stream) {
  const int64_t tiles = (rows.width + 32 * P - 1) / (32 * P);
  const dim3 threads(kReduceWarps * 32);
  if (const int64_t warps = rows.batch * rows.slots * tiles) {
    launch(merge::gpu::segment_blocks_kernel<false, T, P>, blocks_for(warps, kReduceWarps), threads, 0, stream, rows);
  }
  const int64_t warps = rows.batch * rows.segments * (tiles ? tiles : 1);
  launch(cluster_sums_kernel<T, P>, blocks_for(warps, kReduceWarps), threads, 0, stream, a, rows, sums);
}

template <class T>
void sum_rows(const UpdateArgs& a, const Space& space, const GpuContext& context) {
  constexpr int kWide = 16 / sizeof(T);
  if (space.weight && a.batch * a.rows > 0) {
    const dim3 blocks = blocks_for(a.batch * a.rows, kUpdateWarps);
    launch(row_weights_kernel<T>, blocks, dim3(kUpdateThreads), 0, context.stream, a, space.weight);
  }
  const ReduceRows<T> rows{static_cast<const T*>(a.x),
                           merge::gpu::build_members(index_of(a), space.members, context),
                           space.weight,
                           nullptr,
                           nullptr,
                           space.partial,
                           false,
                           a.batch,
                           a.rows,
                           a.clusters,
                           a.width,
                           space.slots,
                           a.x_batch_stride,
                           a.x_row_stride};
  const bool wide =
      reinterpret_cast<uintptr_t>(a.x) % 16 == 0 && (a.width | a.x_batch_stride | a.x_row_stride) % kWide == 0;
  if (wide) return launch_sums<T, kWide>(a, rows, space.sums, context.stream);
  launch_sums<T, 1>(a, rows, space.sums, context.stream);
}

template <class T>
void update_samples(const UpdateArgs& a, const GpuContext& context) {
  const Space space(a, context.workspace);
  if (a.add_rows) sum_rows<T>(a, space, context);
  if (!a.move_centroids) return;
  const dim3 blocks = blocks_for(a.batch * a.clusters, kUpdateWarps);
  launch(cluster_means_kernel<T>, blocks, dim3(kUpdateThreads), 0, context.stream, a, space.sums, space.moved);
  launch(cluster_shift_kernel<kUpdateThreads>, dim3(static_cast<unsigned>(a.batch)), dim3(kUpdateThreads), 0,
         context.stream, a, space.moved);
}

}  // namespace

size_t update_workspace(const UpdateArgs& a) { return Space(a, nullptr).carver.used; }

void update(const UpdateArgs& a, const GpuContext& context) {
  if (a.batch == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, update_samples<T>(a, context))
}

}  // namespace tk::cluster::gpu
