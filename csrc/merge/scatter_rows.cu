// SPDX-License-Identifier: Apache-2.0
#include "merge/row_words.h"
#include "merge/scatter_rows.cuh"

namespace tk::merge::gpu {
namespace {

dim3 blocks_of(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kScatterThreads - 1) / kScatterThreads));
}

void find_winners(const int64_t* index, int64_t batch, int64_t rows, int64_t picks, const GpuContext& context) {
  if (rows == 0) return;  // every index is out of range
  auto* winner = static_cast<unsigned long long*>(context.workspace);
  launch(clear_winners_kernel<kScatterThreads>, blocks_of(batch * rows), dim3(kScatterThreads), 0, context.stream,
         winner, batch * rows);
  if (picks == 0) return;
  launch(bid_kernel<kScatterThreads>, blocks_of(batch * picks), dim3(kScatterThreads), 0, context.stream, index, winner,
         batch * picks, rows, picks);
}

// A view of rows in units of Word.
template <class Word>
RowSource<Word> rows_of(const void* data, DType dtype, int64_t batch_stride, int64_t row_stride) {
  const auto per_word = static_cast<int64_t>(sizeof(Word) / item_size(dtype));
  return {static_cast<const Word*>(data), batch_stride / per_word, row_stride / per_word};
}

template <class Word>
void launch_scatter(const ScatterRowsArgs& a, const GpuContext& context) {
  const int64_t words = a.width * static_cast<int64_t>(item_size(a.dtype)) / static_cast<int64_t>(sizeof(Word));
  launch(scatter_rows_kernel<Word>, blocks_of(a.batch * a.rows * 32), dim3(kScatterThreads), 0, context.stream,
         rows_of<Word>(a.y, a.dtype, a.y_batch_stride, a.y_row_stride),
         rows_of<Word>(a.base, a.dtype, a.base_batch_stride, a.base_row_stride),
         static_cast<const unsigned long long*>(context.workspace), static_cast<Word*>(a.out), a.batch * a.rows, a.rows,
         words);
}

template <class Word>
void launch_gather_winners(const ScatterRowsBackwardArgs& a, const GpuContext& context) {
  const int64_t words = a.width * static_cast<int64_t>(item_size(a.dtype)) / static_cast<int64_t>(sizeof(Word));
  launch(gather_winners_kernel<Word>, blocks_of(a.batch * a.picks * 32), dim3(kScatterThreads), 0, context.stream,
         rows_of<Word>(a.grad, a.dtype, a.grad_batch_stride, a.grad_row_stride), a.index,
         static_cast<const unsigned long long*>(context.workspace), static_cast<Word*>(a.out), a.batch * a.picks,
         a.rows, a.picks, words);
}

}  // namespace

size_t scatter_rows_workspace(const ScatterRowsArgs& a) {
  return static_cast<size_t>(a.batch * a.rows) * sizeof(unsigned long long);
}

void scatter_rows(const ScatterRowsArgs& a, const GpuContext& context) {
  if (a.batch * a.rows * a.width == 0) return;
  find_winners(a.index, a.batch, a.rows, a.picks, context);
  const bool wide =
      fits_words({a.y, a.base, a.out},
                 {a.width, a.y_batch_stride, a.y_row_stride, a.base_batch_stride, a.base_row_stride}, a.dtype);
  if (wide) return launch_scatter<Word16>(a, context);
  if (a.dtype == DType::f32) return launch_scatter<uint32_t>(a, context);
  return launch_scatter<uint16_t>(a, context);
}

size_t scatter_rows_backward_workspace(const ScatterRowsBackwardArgs& a) {
  return static_cast<size_t>(a.batch * a.rows) * sizeof(unsigned long long);
}

void scatter_rows_backward(const ScatterRowsBackwardArgs& a, const GpuContext& context) {
  if (a.batch * a.picks * a.width == 0) return;
  find_winners(a.index, a.batch, a.rows, a.picks, context);
  const bool wide = fits_words({a.grad, a.out}, {a.width, a.grad_batch_stride, a.grad_row_stride}, a.dtype);
  if (wide) return launch_gather_winners<Word16>(a, context);
  if (a.dtype == DType::f32) return launch_gather_winners<uint32_t>(a, context);
  return launch_gather_winners<uint16_t>(a, context);
}

}  // namespace tk::merge::gpu
