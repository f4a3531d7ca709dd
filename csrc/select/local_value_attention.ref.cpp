// SPDX-License-Identifier: Apache-2.0
#include "select/local_value_attention.h"

#include "select/best_first.ref.h"

namespace tk::selection::ref {
namespace {

template <class T>
void attend_row(const LocalValueAttentionArgs& a, const ScoreRows& rows, int64_t row) {
  std::vector<int64_t> kept = best_first<T>(rows, row);
  kept.resize(static_cast<size_t>(a.keep));
  std::sort(kept.begin(), kept.end());
  const T* prob = score_row<T>(rows, row);
  const T* v = values_of<T>(a, row);
  for (int64_t d = 0; d < a.width; ++d) {
    double sum = 0.0;
    for (const int64_t j : kept) sum += double{to_float(prob[j])} * to_float(v[j * a.v.row_stride + d]);
    static_cast<T*>(a.out)[row * a.width + d] = from_float<T>(static_cast<float>(sum));
  }
}

}  // namespace

void local_value_attention(const LocalValueAttentionArgs& a) {
  const ScoreRows rows = prob_rows(a);
  for (int64_t row = 0; row < rows.rows; ++row) {
    TK_FLOAT_SWITCH(a.dtype, T, attend_row<T>(a, rows, row))
  }
}

}  // namespace tk::selection::ref
