// SPDX-License-Identifier: Apache-2.0
#include "select/topk_gate.h"

#include "select/best_first.ref.h"

namespace tk::selection::ref {
namespace {

template <class T>
void gate_row(const TopkGateArgs& a, int64_t row) {
  const T* logits = score_row<T>(a.logits, row);
  const std::vector<int64_t> order = best_first<T>(a.logits, row);
  double largest = -INFINITY;
  for (int64_t e = 0; e < a.logits.width; ++e) largest = std::fmax(largest, to_float(logits[e]));
  const auto exponential = [&](int64_t e) { return std::exp(to_float(logits[e]) - largest); };
  double sum = 0;
  for (int64_t e = 0; e < a.logits.width; ++e) sum += exponential(e);
  double chosen = 0;
  for (int64_t i = 0; i < a.k; ++i) chosen += exponential(order[static_cast<size_t>(i)]) / sum;
  for (int64_t i = 0; i < a.k; ++i) {
    const int64_t e = order[static_cast<size_t>(i)];
    const double p = exponential(e) / sum;
    a.index[row * a.k + i] = e;
    a.weight[row * a.k + i] = static_cast<float>(a.normalize ? p / chosen : p);
    ++a.counts[row / a.tokens * a.logits.width + e];
  }
}

}  // namespace

void topk_gate(const TopkGateArgs& a) {
  std::fill_n(a.counts, a.batch * a.logits.width, int64_t{0});
  for (int64_t row = 0; row < a.logits.rows; ++row) {
    TK_FLOAT_SWITCH(a.logits.dtype, T, gate_row<T>(a, row))
  }
}

}  // namespace tk::selection::ref
