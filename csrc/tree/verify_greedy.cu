// SPDX-License-Identifier: Apache-2.0
#include "tree/verify_greedy.cuh"

namespace tk::tree::gpu {

size_t verify_greedy_workspace(const VerifyGreedyArgs&) { return 0; }

void verify_greedy(const VerifyGreedyArgs& a, const GpuContext& context) {
  if (a.batch == 0) return;
  const int64_t blocks = (a.batch * 32 + kGreedyThreads - 1) / kGreedyThreads;
  launch(verify_greedy_kernel<kGreedyThreads>, dim3(static_cast<unsigned>(blocks)), dim3(kGreedyThreads), 0,
         context.stream, a);
}

}  // namespace tk::tree::gpu
