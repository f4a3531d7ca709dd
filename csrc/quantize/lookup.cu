// SPDX-License-Identifier: Apache-2.0
#include "cluster/update.h"
#include "merge/row_words.h"
#include "merge/segment_members.cuh"
#include "quantize/lookup.cuh"

namespace tk::quantize::gpu {
namespace {

using merge::gpu::Carver;
using merge::gpu::Word16;

dim3 lookup_blocks(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kLookupThreads - 1) / kLookupThreads));
}

template <class Word>
void launch_lookup(const LookupArgs& a, void* stream) {
  const auto per_word = static_cast<int64_t>(sizeof(Word) / item_size(a.dtype));
  const int64_t total = a.books * a.rows;
  launch(lookup_kernel<Word>, lookup_blocks(total * 32), dim3(kLookupThreads), 0, stream,
         static_cast<const Word*>(a.codes), a.index, static_cast<Word*>(a.out), total, a.rows, a.codes_count,
         a.width / per_word, a.book_stride / per_word, a.code_stride / per_word);
}

// What one group needs; the next reuses it.
struct GradientSpace {
  Carver carver;
  int64_t* index;   // (layers, N), where there are several books
  int64_t* counts;  // (layers, K)
  float* sums;      // (layers, K, D), where the answer is not float32

  GradientSpace(const LookupBackwardArgs& a, void* workspace)
      : carver{static_cast<char*>(workspace)},
        index(carver.take<int64_t>(a.books > 1 ? a.layers * a.rows : 0)),
        counts(carver.take<int64_t>(a.layers * a.codes_count)),
        sums(carver.take<float>(a.dtype == DType::f32 ? 0 : a.layers * a.codes_count * a.width)) {}
};

cluster::UpdateArgs gradient_sums(const LookupBackwardArgs& a, const void* grad, const int64_t* index, float* sums,
                                  int64_t* counts) {
  return {grad,  index,    nullptr, sums,          counts,  nullptr, nullptr,           a.dtype, Metric::l2, true,
          false, a.layers, a.rows,  a.codes_count, a.width, 0,       a.grad_row_stride, 0,       0};
}

template <class T>
void add_gradients(const LookupBackwardArgs& a, int64_t g, const GpuContext& context) {
  const GradientSpace space(a, context.workspace);
  const int64_t book = a.codes_count * a.width;
  T* out = static_cast<T*>(a.out) + g * a.books * book;
  const int64_t* index = a.index + g * a.rows * a.books;
  const dim3 threads(kLookupThreads);
  const bool single = a.dtype == DType::f32;
  float* sums = single ? reinterpret_cast<float*>(out) : space.sums;
  if (a.books > 1 && a.layers * a.rows > 0) {
    launch(transpose_index_kernel<kLookupThreads>, lookup_blocks(a.layers * a.rows), threads, 0, context.stream, index,
           space.index, a.rows, a.books, a.layers);
    index = space.index;
  }
  const T* grad = static_cast<const T*>(a.grad) + g * a.grad_group_stride;
  const GpuContext inner{context.stream, static_cast<char*>(context.workspace) + space.carver.used,
                         context.workspace_bytes - space.carver.used};
  if (a.layers > 0) cluster::gpu::update(gradient_sums(a, grad, index, sums, space.counts), inner);
  const int64_t given = a.layers * book;
  const int64_t done = single ? given : 0;
  if (a.books * book == done) return;
  launch(round_sums_kernel<T>, lookup_blocks(a.books * book - done), threads, 0, context.stream, sums + done,
         out + done, given - done, a.books * book - done);
}

}  // namespace

size_t lookup_workspace(const LookupArgs&) { return 0; }

void lookup(const LookupArgs& a, const GpuContext& context) {
  if (a.books * a.rows * a.width == 0) return;
  const bool wide = merge::gpu::fits_words({a.codes, a.out}, {a.width, a.book_stride, a.code_stride}, a.dtype);
  if (wide) return launch_lookup<Word16>(a, context.stream);
  if (a.dtype == DType::f32) return launch_lookup<uint32_t>(a, context.stream);
  launch_lookup<uint16_t>(a, context.stream);
}

size_t lookup_backward_workspace(const LookupBackwardArgs& a) {
  // The update asks only where its sums would go, not what is there.
  float* somewhere = reinterpret_cast<float*>(a.out);
  return GradientSpace(a, nullptr).carver.used +
         cluster::gpu::update_workspace(gradient_sums(a, a.grad, a.index, somewhere, nullptr));
}

void lookup_backward(const LookupBackwardArgs& a, const GpuContext& context) {
  if (a.books * a.codes_count * a.width == 0) return;
  for (int64_t g = 0; g < a.groups; ++g) TK_FLOAT_SWITCH(a.dtype, T, add_gradients<T>(a, g, context))
}

}  // namespace tk::quantize::gpu
