// SPDX-License-Identifier: Apache-2.0
#include "select/topk.h"

#include "select/best_first.ref.h"

namespace tk::selection::ref {
namespace {

template <class T>
void topk_rows(const TopkArgs& a) {
  for (int64_t row = 0; row < a.from.rows; ++row) {
    std::vector<int64_t> chosen = best_first<T>(a.from, row);
    chosen.resize(static_cast<size_t>(a.k));
    if (!a.sorted) std::sort(chosen.begin(), chosen.end());
    const uint8_t* mask = mask_row(a.from, row);
    for (int64_t i = 0; i < a.k; ++i) {
      const int64_t j = chosen[static_cast<size_t>(i)];
      a.index[row * a.k + i] = j;
      static_cast<T*>(a.value)[row * a.k + i] =
          mask && !mask[j] ? from_float<T>(-INFINITY) : score_row<T>(a.from, row)[j];
    }
  }
}

}  // namespace

void topk(const TopkArgs& a) { TK_FLOAT_SWITCH(a.from.dtype, T, topk_rows<T>(a)) }

}  // namespace tk::selection::ref
