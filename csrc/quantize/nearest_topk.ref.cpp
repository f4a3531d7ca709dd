// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest_topk.h"

#include "quantize/nearness.ref.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void nearest_topk_row(const NearestTopkArgs& a, int64_t book, int64_t row) {
  const std::vector<Found> found = ranked_codes<T>(a.search, book, row);
  const int64_t out = (book * a.search.rows + row) * a.k;
  for (int64_t i = 0; i < a.k; ++i) write_ranked(found, i, a.search.metric, -1, a.index + out + i, a.best + out + i);
}

}  // namespace

void nearest_topk(const NearestTopkArgs& a) {
  for (int64_t book = 0; book < a.search.books; ++book) {
    for (int64_t row = 0; row < a.search.rows; ++row) {
      TK_FLOAT_SWITCH(a.search.dtype, T, nearest_topk_row<T>(a, book, row))
    }
  }
}

}  // namespace tk::quantize::ref
