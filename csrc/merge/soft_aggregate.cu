// SPDX-License-Identifier: Apache-2.0
#include "merge/soft_aggregate.cuh"

namespace tk::merge::gpu {
namespace {

template <class T, class L>
void aggregate(const SoftAggregateArgs& a, const GpuContext& context) {
  const bool over_targets = a.mass_out != nullptr;
  const int64_t sums = a.batch * (over_targets ? a.tokens : a.targets);
  auto* shift = static_cast<float*>(context.workspace);
  float* scale = shift + sums;
  launch_normalisers(logit_matrix<L>(a, !over_targets), a.batch, a.mass, shift, scale, context.stream);
  const ValueMatrix<T> x{static_cast<const T*>(a.x), a.x_batch_stride, a.x_row_stride, a.tokens, a.width};
  const SoftWeigh by_rows{shift, nullptr, nullptr, nullptr};
  if constexpr (sizeof(T) == 2) {
    if (!over_targets) {
      return launch_aggregate_mma(logit_matrix<L>(a, true), by_rows, x, scale, static_cast<T*>(a.y), a.batch,
                                  context.stream);
    }
  }
  const SoftWeigh by_columns{nullptr, shift, scale, scale};
  const SoftResult<T> result{
      static_cast<T*>(a.y), over_targets ? nullptr : scale, over_targets, nullptr, a.mass_out, nullptr, 0, 0, nullptr};
  launch_aggregate(logit_matrix<L>(a, true), over_targets ? by_columns : by_rows, x, result, a.batch, context.stream);
}

}  // namespace

size_t soft_aggregate_workspace(const SoftAggregateArgs& a) {
  return static_cast<size_t>(a.batch * (a.mass_out ? a.tokens : a.targets)) * 2 * sizeof(float);
}

void soft_aggregate(const SoftAggregateArgs& a, const GpuContext& context) {
  TK_FLOAT_SWITCH(a.dtype, T, TK_FLOAT_SWITCH(a.logits_dtype, L, aggregate<T, L>(a, context)))
}

}  // namespace tk::merge::gpu
