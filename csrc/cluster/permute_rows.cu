// SPDX-License-Identifier: Apache-2.0
#include "cluster/permute_rows.cuh"
#include "merge/row_words.h"

namespace tk::cluster::gpu {
namespace {

template <class Word, bool kInverse>
void launch_permute(const PermuteRowsArgs& a, void* stream) {
  const auto per_word = static_cast<int64_t>(sizeof(Word) / item_size(a.dtype));
  const RowMoves<Word> moves{static_cast<const Word*>(a.x),
                             a.perm,
                             static_cast<Word*>(a.out),
                             a.heads,
                             a.tokens,
                             a.width / per_word,
                             a.batch_stride / per_word,
                             a.head_stride / per_word,
                             a.row_stride / per_word};
  int log_lanes = 0;
  while (log_lanes < 5 && (1 << log_lanes) < moves.words) ++log_lanes;
  const int64_t total = a.batch * a.heads * a.tokens;
  const int64_t rows_of_block = kPermuteThreads >> log_lanes;
  launch(permute_rows_kernel<Word, kInverse>, dim3(static_cast<unsigned>((total + rows_of_block - 1) / rows_of_block)),
         dim3(kPermuteThreads), 0, stream, moves, total, log_lanes);
}

template <bool kInverse>
void permute(const PermuteRowsArgs& a, void* stream) {
  if (a.batch * a.heads * a.tokens * a.width == 0) return;
  const bool wide =
      merge::gpu::fits_words({a.x, a.out}, {a.width, a.batch_stride, a.head_stride, a.row_stride}, a.dtype);
  if (wide) return launch_permute<merge::gpu::Word16, kInverse>(a, stream);
  if (a.dtype == DType::f32) return launch_permute<uint32_t, kInverse>(a, stream);
  return launch_permute<uint16_t, kInverse>(a, stream);
}

}  // namespace

size_t permute_rows_workspace(const PermuteRowsArgs&) { return 0; }
void permute_rows(const PermuteRowsArgs& a, const GpuContext& context) { permute<false>(a, context.stream); }

size_t inverse_permute_rows_workspace(const PermuteRowsArgs&) { return 0; }
void inverse_permute_rows(const PermuteRowsArgs& a, const GpuContext& context) { permute<true>(a, context.stream); }

}  // namespace tk::cluster::gpu
