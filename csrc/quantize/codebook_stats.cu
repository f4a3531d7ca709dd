// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_stats.cuh"

namespace tk::quantize::gpu {

size_t codebook_stats_workspace(const CodebookStatsArgs&) { return 0; }

void codebook_stats(const CodebookStatsArgs& a, const GpuContext& context) {
  if (a.books == 0) return;
  const auto blocks = [](int64_t items) {
    return dim3(static_cast<unsigned>((items + kStatsThreads - 1) / kStatsThreads));
  };
  const dim3 threads(kStatsThreads);
  launch(clear_counts_kernel<kStatsThreads>, blocks(a.books * a.codes), threads, 0, context.stream, a);
  if (a.rows > 0) {
    launch(count_codes_kernel<kStatsThreads>, blocks(a.books * a.rows), threads, 0, context.stream, a);
  }
  launch(codebook_stats_kernel<kStatsThreads>, dim3(static_cast<unsigned>(a.books)), threads, 0, context.stream, a);
}

}  // namespace tk::quantize::gpu
