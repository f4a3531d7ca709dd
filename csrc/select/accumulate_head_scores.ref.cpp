// SPDX-License-Identifier: Apache-2.0
#include "select/accumulate_head_scores.h"

#include <cmath>

namespace tk::selection::ref {
namespace {

template <class T>
double row_size(const T* row, int64_t width) {
  double sum = 0.0;
  for (int64_t d = 0; d < width; ++d) sum += std::fabs(to_float(row[d]));
  return sum;
}

template <class T>
void accumulate(const AccumulateHeadScoresArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      double sum = a.score ? a.score[b * a.heads + h] : 0.0;
      for (int64_t i = 0; i < a.queries; ++i) {
        if (!a.live || a.live[b * a.queries + i]) sum += row_size(head_row<T>(a.e, b, h, i), a.width);
      }
      a.out[b * a.heads + h] = static_cast<float>(sum);
    }
  }
}

}  // namespace

void accumulate_head_scores(const AccumulateHeadScoresArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, accumulate<T>(a)) }

}  // namespace tk::selection::ref
