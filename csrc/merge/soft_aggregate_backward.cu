// SPDX-License-Identifier: Apache-2.0
#include "merge/soft_aggregate_backward.cuh"

namespace tk::merge::gpu {
namespace {

// The workspace, in floats, one array after the other.
struct Layout {
  explicit Layout(const SoftAggregateBackwardArgs& a)
      : sums(a.batch * (a.mass_out ? a.tokens : a.targets)),
        targets(a.batch * a.targets),
        parts(a.mass_out ? a.batch * a.tokens * soft_column_blocks(a.width) : 0) {}
  int64_t total() const { return 2 * sums + 2 * targets + parts; }
  int64_t sums, targets, parts;
};

template <class T, class L>
void token_gradients(const SoftAggregateBackwardArgs& a, const SoftWeigh& weigh, const float* row_scale,
                     const ValueMatrix<T>& grad, const ValueMatrix<T>& x, float* partial, void* stream) {
  const LogitMatrix<L> l = logit_matrix<L>(a, false);
  auto* out = static_cast<T*>(a.grad_x);
  if constexpr (sizeof(T) == 2) {
    if (!a.mass_out) return launch_aggregate_mma(l, weigh, grad, row_scale, out, a.batch, stream);
  }
  const SoftResult<T> result{out, row_scale, false, a.mass, nullptr, x.data, x.batch_stride, x.row_stride, partial};
  launch_aggregate(l, weigh, grad, result, a.batch, stream);
}

template <class T, class L>
void launch_logits(const SoftAggregateBackwardArgs& a, const LogitConstants& k, const ValueMatrix<T>& grad,
                   const ValueMatrix<T>& x, void* stream) {
  const int64_t row_blocks = (a.targets + kSoftRows - 1) / kSoftRows;
  const int64_t col_blocks = (a.tokens + kSoftRows - 1) / kSoftRows;
  const dim3 grid(static_cast<unsigned>(a.batch * row_blocks * col_blocks));
  const LogitMatrix<L> l = logit_matrix<L>(a, true);
  auto* out = static_cast<L*>(a.grad_logits);
  if constexpr (sizeof(T) == 2) {
    launch(soft_logits_mma_kernel<T, L>, grid, dim3(kSoftThreads), 0, stream, l, grad, x, k, a.mass,
           wide_rows(grad) && wide_rows(x), out, row_blocks, col_blocks);
  } else {
    launch(soft_logits_kernel<T, L>, grid, dim3(kSoftThreads), 0, stream, l, grad, x, k, a.mass, out, row_blocks,
           col_blocks);
  }
}

template <class T, class L>
void gradients(const SoftAggregateBackwardArgs& a, const GpuContext& context) {
  const bool over_targets = a.mass_out != nullptr;
  const Layout layout(a);
  auto* shift = static_cast<float*>(context.workspace);
  float* inverses = shift + layout.sums;
  float* share = inverses + layout.sums;
  float* offset = share + layout.targets;
  float* partial = offset + layout.targets;
  const ValueMatrix<T> grad{static_cast<const T*>(a.grad_y), a.grad_batch_stride, a.grad_row_stride, a.targets,
                            a.width};
  const ValueMatrix<T> x{static_cast<const T*>(a.x), a.x_batch_stride, a.x_row_stride, a.tokens, a.width};

  launch_normalisers(logit_matrix<L>(a, !over_targets), a.batch, nullptr, shift, inverses, context.stream);
  if (layout.targets) {
    const int64_t warps = kSoftThreads / 32;
    launch(soft_constants_kernel<T>, dim3(static_cast<unsigned>((layout.targets + warps - 1) / warps)),
           dim3(kSoftThreads), 0, context.stream, a, share, offset);
  }
  const SoftWeigh by_columns{nullptr, shift, inverses, nullptr};
  const SoftWeigh by_rows{shift, nullptr, share, offset};
  token_gradients<T, L>(a, over_targets ? by_rows : by_columns, over_targets ? inverses : nullptr, grad, x,
                        over_targets ? partial : nullptr, context.stream);
  const int64_t tokens = a.batch * a.tokens;
  if (over_targets && tokens) {
    launch(soft_centres_kernel<kSoftThreads>, dim3(static_cast<unsigned>((tokens + kSoftThreads - 1) / kSoftThreads)),
           dim3(kSoftThreads), 0, context.stream, partial, soft_column_blocks(a.width), a.grad_mass, tokens);
  }
  if (layout.targets * a.tokens == 0) return;
  launch_logits<T, L>(a, LogitConstants{shift, inverses, share, offset, over_targets ? a.grad_mass : nullptr}, grad, x,
                      context.stream);
}

}  // namespace

size_t soft_aggregate_backward_workspace(const SoftAggregateBackwardArgs& a) {
  return static_cast<size_t>(Layout(a).total()) * sizeof(float);
}

void soft_aggregate_backward(const SoftAggregateBackwardArgs& a, const GpuContext& context) {
  TK_FLOAT_SWITCH(a.dtype, T, TK_FLOAT_SWITCH(a.logits_dtype, L, gradients<T, L>(a, context)))
}

}  // namespace tk::merge::gpu
