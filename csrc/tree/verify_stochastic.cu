// SPDX-License-Identifier: Apache-2.0
#include "tree/verify_stochastic.cuh"

namespace tk::tree::gpu {
namespace {

size_t kept_bytes(const VerifyStochasticArgs& a) {
  return a.rule == Rule::typical ? static_cast<size_t>(a.batch * a.nodes) * sizeof(KeptNode) : 0;
}

}  // namespace

size_t verify_stochastic_workspace(const VerifyStochasticArgs& a) {
  return kept_bytes(a) + static_cast<size_t>(a.batch * kept_rows(a.rule) * a.width) * sizeof(float);
}

void verify_stochastic(const VerifyStochasticArgs& a, const GpuContext& context) {
  if (a.batch == 0) return;
  auto* kept = static_cast<KeptNode*>(context.workspace);
  auto* rows = reinterpret_cast<float*>(static_cast<char*>(context.workspace) + kept_bytes(a));
  TK_FLOAT_SWITCH(a.dtype, T,
                  launch(verify_stochastic_kernel<T>, dim3(static_cast<unsigned>(a.batch)),
                         dim3(static_cast<unsigned>(mass_threads(a.width))), 0, context.stream, a, rows, kept))
}

}  // namespace tk::tree::gpu
