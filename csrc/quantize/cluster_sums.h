// SPDX-License-Identifier: Apache-2.0
// What a batch adds to a codebook is the first half of a step of k-means.
#pragma once
#include "cluster/update.h"
#include "quantize/ema_update.h"

namespace tk::quantize {

static inline cluster::UpdateArgs cluster_sums(const EmaUpdateArgs& a) {
  return {a.x,   a.index, nullptr, a.sums,  a.counts, nullptr,         nullptr,        a.dtype, Metric::l2, true,
          false, a.books, a.rows,  a.codes, a.width,  a.x_book_stride, a.x_row_stride, 0,       0};
}

}  // namespace tk::quantize
