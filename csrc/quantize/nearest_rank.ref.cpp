// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest_rank.h"

#include "quantize/nearness.ref.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void nearest_rank_row(const NearestRankArgs& a, int64_t book, int64_t row) {
  const std::vector<Found> found = ranked_codes<T>(a.search, book, row);
  const int64_t rank = std::clamp<int64_t>(a.rank[book * a.rank_book_stride + row], 0, a.search.codes_count - 1);
  const int64_t out = book * a.search.rows + row;
  write_ranked(found, rank, a.search.metric, -1, a.index + out, a.best + out);
}

}  // namespace

void nearest_rank(const NearestRankArgs& a) {
  for (int64_t book = 0; book < a.search.books; ++book) {
    for (int64_t row = 0; row < a.search.rows; ++row) {
      TK_FLOAT_SWITCH(a.search.dtype, T, nearest_rank_row<T>(a, book, row))
    }
  }
}

}  // namespace tk::quantize::ref
