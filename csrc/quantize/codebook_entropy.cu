// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_entropy.cuh"
#include "quantize/fold_parts.cuh"

namespace tk::quantize::gpu {
namespace {

struct EntropyPlan {
  SoftPair pair;
  int64_t row_tiles, code_tiles, row_parts, code_parts;
  SoftStats* stats;  // [book][part of the codes][row]
  float* guarded;    // likewise
  float* columns;    // [book][part of the rows][code]
  float* total;      // [book]
  Normaliser norm;
  int64_t floats;
};

EntropyPlan entropy_plan(const CodebookEntropyArgs& a, void* workspace) {
  SoftMemory memory{static_cast<float*>(workspace)};
  EntropyPlan plan{};
  const int64_t rows = a.books * a.rows;
  plan.pair = soft_pair(a, &memory);
  plan.row_tiles = soft_tiles(a.rows);
  plan.code_tiles = soft_tiles(a.codes_count);
  plan.code_parts = soft_splits(plan.row_tiles * a.books, plan.code_tiles);
  plan.row_parts = soft_splits(plan.code_tiles * a.books, plan.row_tiles);
  plan.stats = reinterpret_cast<SoftStats*>(memory.take(4 * plan.code_parts * rows));
  plan.guarded = memory.take(plan.code_parts * rows);
  plan.columns = memory.take(plan.row_parts * a.books * a.codes_count);
  plan.total = memory.take(a.books);
  plan.norm = {memory.take(rows), memory.take(rows)};
  plan.floats = memory.used;
  return plan;
}

template <class T>
void launch_rows(const CodebookEntropyArgs& a, const EntropyPlan& plan, void* stream) {
  const dim3 grid = soft_grid(plan.row_tiles * a.books, plan.code_parts);
  const int64_t rows = a.books * a.rows;
  launch(soft_rows_kernel<T, StatsRule>, grid, dim3(kSoftThreads), 0, stream, plan.pair, plan.row_tiles,
         StatsRule{plan.pair.base, plan.stats});
  launch(codebook_entropy_join_kernel, soft_grid((rows + kSoftThreads - 1) / kSoftThreads), dim3(kSoftThreads), 0,
         stream, a, plan.pair, static_cast<const SoftStats*>(plan.stats), plan.code_parts, plan.norm);
  if (a.log_add == 0.0f && a.log_floor == 0.0f) return;
  launch(soft_rows_kernel<T, GuardRule>, grid, dim3(kSoftThreads), 0, stream, plan.pair, plan.row_tiles,
         GuardRule{plan.pair.base, SoftGuard{a.log_add, a.log_floor}, plan.norm, a.rows, plan.guarded});
  launch_fold<float>(plan.guarded, a.entropy, rows, plan.code_parts, a.rows, -1.0f, stream);
}

template <class T>
void launch_entropy(const CodebookEntropyArgs& a, const GpuContext& context) {
  const EntropyPlan plan = entropy_plan(a, context.workspace);
  launch_norms<T>(plan.pair, context.stream);
  if (a.rows > 0) launch_rows<T>(a, plan, context.stream);
  if (a.weight) {
    launch(soft_total_kernel<double>, soft_grid(a.books), dim3(kSoftThreads), 0, context.stream, a.weight,
           a.weight_book_stride, a.rows, plan.total);
  }
  launch(soft_columns_kernel<T>, soft_grid(plan.code_tiles * a.books, plan.row_parts), dim3(kSoftThreads), 0,
         context.stream, plan.pair, plan.code_tiles, plan.norm,
         SoftShare{a.weight, a.weight_book_stride, a.rows, plan.total}, plan.columns);
  launch_fold<float>(plan.columns, a.mean_prob, a.books * a.codes_count, plan.row_parts, a.codes_count, 1.0f,
                     context.stream);
}

}  // namespace

size_t codebook_entropy_workspace(const CodebookEntropyArgs& a) {
  return static_cast<size_t>(entropy_plan(a, nullptr).floats) * sizeof(float);
}

void codebook_entropy(const CodebookEntropyArgs& a, const GpuContext& context) {
  if (a.books == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_entropy<T>(a, context))
}

}  // namespace tk::quantize::gpu
