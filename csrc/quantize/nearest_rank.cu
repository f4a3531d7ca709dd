// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest_rank.cuh"

namespace tk::quantize::gpu {
namespace {

RankScratch scratch_in(const CodeSearch& c, void* workspace) {
  RankScratch s;
  s.state = static_cast<RankState*>(workspace);
  s.row = reinterpret_cast<float*>(s.state + c.books * c.rows);
  s.column = s.row + c.books * c.rows;
  s.counts = reinterpret_cast<int*>(s.column + c.books * c.codes_count);
  return s;
}

size_t bytes_for(const CodeSearch& s) {
  const int64_t items = s.books * s.rows;
  const int64_t words = items + s.books * s.codes_count + device_search(s).splits * items * kDigits;
  return static_cast<size_t>(items) * sizeof(RankState) + static_cast<size_t>(words) * sizeof(float);
}

// Calls use(args) for parts of the rows that need a bounded workspace each.
template <class Use>
void for_row_parts(const NearestRankArgs& a, const Use& use) {
  const CodeSearch& s = a.search;
  const auto item = static_cast<int64_t>(item_size(s.dtype));
  const int64_t part_rows = s.rows < kMostRankRows ? s.rows : kMostRankRows;
  const int64_t part_books = kMostRankRows / part_rows;
  for (int64_t book = 0; book < s.books; book += part_books) {
    for (int64_t row = 0; row < s.rows; row += part_rows) {
      NearestRankArgs part = a;
      part.search.books = s.books - book < part_books ? s.books - book : part_books;
      part.search.rows = s.rows - row < part_rows ? s.rows - row : part_rows;
      part.search.x = static_cast<const char*>(s.x) + (book * s.x_book_stride + row * s.x_row_stride) * item;
      part.search.codes = static_cast<const char*>(s.codes) + book * s.c_book_stride * item;
      part.rank += book * a.rank_book_stride + row;
      part.index += book * s.rows + row;
      part.best += book * s.rows + row;
      use(part);
    }
  }
}

template <class T>
void launch_part(const NearestRankArgs& a, const GpuContext& context) {
  const DeviceSearch search = device_search(a.search);
  const RankScratch s = scratch_in(a.search, context.workspace);
  const int64_t rows = search.batch * search.rows;
  const dim3 threads(kNormThreads);
  launch_norms<T>(search, a.search.metric, s.row, s.column, context.stream);
  launch(rank_start_kernel<void>, dim3(static_cast<unsigned>((rows + kNormThreads - 1) / kNormThreads)), threads, 0,
         context.stream, a, s);
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    with_tile<T>(search, a.search.dtype, [&](auto tile, auto aligned) {
      using Tile = decltype(tile);
      launch(rank_count_kernel<T, Tile, decltype(aligned)::value>, search_grid(search), dim3(kSearchThreads),
             sizeof(RankShared<Tile>), context.stream, a.search.metric, search, s, shift);
    });
    launch(rank_digit_kernel<void>, warp_grid(rows), threads, 0, context.stream, s, rows, search.splits, shift);
  }
  with_tile<T>(search, a.search.dtype, [&](auto tile, auto aligned) {
    using Tile = decltype(tile);
    launch(rank_find_kernel<T, Tile, decltype(aligned)::value>, search_grid(search), dim3(kSearchThreads),
           sizeof(FindShared<Tile>), context.stream, a, search, s);
  });
}

}  // namespace

size_t nearest_rank_workspace(const NearestRankArgs& a) {
  size_t most = 0;
  if (a.search.rows == 0) return most;
  for_row_parts(a, [&](const NearestRankArgs& part) {
    const size_t bytes = bytes_for(part.search);
    most = bytes > most ? bytes : most;
  });
  return most;
}

void nearest_rank(const NearestRankArgs& a, const GpuContext& context) {
  if (a.search.books * a.search.rows == 0) return;
  for_row_parts(a,
                [&](const NearestRankArgs& part) { TK_FLOAT_SWITCH(a.search.dtype, T, launch_part<T>(part, context)) });
}

}  // namespace tk::quantize::gpu
