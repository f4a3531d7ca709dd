// SPDX-License-Identifier: Apache-2.0
#include "select/topk_mask.h"

#include "select/best_first.ref.h"

namespace tk::selection::ref {
namespace {

template <class T>
void mask_rows(const TopkMaskArgs& a) {
  for (int64_t row = 0; row < a.from.rows; ++row) {
    const std::vector<int64_t> order = best_first<T>(a.from, row);
    for (int64_t i = 0; i < a.from.width; ++i) a.out[row * a.from.width + order[static_cast<size_t>(i)]] = i < a.k;
  }
}

}  // namespace

void topk_mask(const TopkMaskArgs& a) { TK_FLOAT_SWITCH(a.from.dtype, T, mask_rows<T>(a)) }

}  // namespace tk::selection::ref
