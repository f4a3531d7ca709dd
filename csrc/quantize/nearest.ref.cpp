// SPDX-License-Identifier: Apache-2.0
#include "quantize/nearest.h"

#include "quantize/nearness.ref.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void nearest_row(const NearestArgs& a, int64_t book, int64_t row) {
  const std::vector<Found> found = ranked_codes<T>(a.search, book, row);
  const int64_t out = book * a.search.rows + row;
  write_ranked(found, 0, a.search.metric, 0, a.index + out, a.best + out);
  if (a.second) write_ranked(found, 1, a.search.metric, -1, a.second + out, a.second_best + out);
}

}  // namespace

void nearest(const NearestArgs& a) {
  for (int64_t book = 0; book < a.search.books; ++book) {
    for (int64_t row = 0; row < a.search.rows; ++row) TK_FLOAT_SWITCH(a.search.dtype, T, nearest_row<T>(a, book, row))
  }
}

}  // namespace tk::quantize::ref
