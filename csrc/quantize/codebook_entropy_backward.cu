// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_entropy_backward.cuh"

namespace tk::quantize::gpu {
namespace {

struct GradientPlan {
  SoftPair pair;
  int64_t row_tiles, code_tiles, parts;
  CentreSums* part_centres;  // [book][part of the codes][row]
  CentreSums* centres;       // [book][row]
  float* total;              // [book]
  float* raw;                // of one side after the other
  float* own;
  int64_t floats;
};

GradientPlan gradient_plan(const CodebookEntropyBackwardArgs& a, void* workspace) {
  SoftMemory memory{static_cast<float*>(workspace)};
  GradientPlan plan{};
  const int64_t most = a.books * (a.rows > a.codes_count ? a.rows : a.codes_count);
  plan.pair = soft_pair(a, &memory);
  plan.row_tiles = soft_tiles(a.rows);
  plan.code_tiles = soft_tiles(a.codes_count);
  plan.parts = soft_splits(plan.row_tiles * a.books, plan.code_tiles);
  plan.part_centres = reinterpret_cast<CentreSums*>(memory.take(2 * plan.parts * a.books * a.rows));
  plan.centres = reinterpret_cast<CentreSums*>(memory.take(2 * a.books * a.rows));
  plan.total = memory.take(a.books);
  plan.raw = memory.take(most * a.width);
  plan.own = memory.take(most);
  plan.floats = memory.used;
  return plan;
}

LogitRule logit_rule(const CodebookEntropyBackwardArgs& a, const GradientPlan& plan) {
  return {a.lse,
          a.grad_entropy,
          a.grad_mean,
          a.grad_lse,
          plan.pair.rows.bias,
          plan.centres,
          SoftShare{a.weight, a.weight_book_stride, a.rows, plan.total},
          SoftGuard{a.log_add, a.log_floor},
          a.rows,
          a.codes_count,
          plan.pair.base,
          a.inv_temperature};
}

template <class T, bool kByCodes>
void launch_side(const CodebookEntropyBackwardArgs& a, const GradientPlan& plan, void* out, void* stream) {
  const int64_t count = kByCodes ? a.codes_count : a.rows;
  const int64_t tiles = kByCodes ? plan.code_tiles : plan.row_tiles;
  if (!out || count * a.width == 0) return;
  launch(soft_gradient_kernel<T, kByCodes>, soft_grid(tiles * a.books, soft_tiles(a.width)), dim3(kSoftThreads), 0,
         stream, plan.pair, tiles, logit_rule(a, plan), plan.raw, plan.own);
  launch(soft_turn_kernel<T, kByCodes>, soft_grid((a.books * count + kSoftWarps - 1) / kSoftWarps), dim3(kSoftThreads),
         0, stream, plan.pair, static_cast<const float*>(plan.raw), static_cast<const float*>(plan.own),
         a.inv_temperature, static_cast<T*>(out));
}

template <class T>
void launch_gradients(const CodebookEntropyBackwardArgs& a, const GpuContext& context) {
  const GradientPlan plan = gradient_plan(a, context.workspace);
  launch_norms<T>(plan.pair, context.stream);
  if (a.weight) {
    launch(soft_total_kernel<double>, soft_grid(a.books), dim3(kSoftThreads), 0, context.stream, a.weight,
           a.weight_book_stride, a.rows, plan.total);
  }
  if (a.rows > 0) {
    const int64_t rows = a.books * a.rows;
    launch(soft_rows_kernel<T, CentreRule>, soft_grid(plan.row_tiles * a.books, plan.parts), dim3(kSoftThreads), 0,
           context.stream, plan.pair, plan.row_tiles, CentreRule{logit_rule(a, plan), plan.part_centres});
    launch(soft_centres_kernel, soft_grid((rows + kSoftThreads - 1) / kSoftThreads), dim3(kSoftThreads), 0,
           context.stream, static_cast<const CentreSums*>(plan.part_centres), plan.centres, rows, plan.parts, a.rows);
  }
  launch_side<T, false>(a, plan, a.grad_x, context.stream);
  launch_side<T, true>(a, plan, a.grad_codes, context.stream);
}

}  // namespace

size_t codebook_entropy_backward_workspace(const CodebookEntropyBackwardArgs& a) {
  return static_cast<size_t>(gradient_plan(a, nullptr).floats) * sizeof(float);
}

void codebook_entropy_backward(const CodebookEntropyBackwardArgs& a, const GpuContext& context) {
  if (a.books == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_gradients<T>(a, context))
}

}  // namespace tk::quantize::gpu
