// SPDX-License-Identifier: Apache-2.0
#include "tree/row_stats.h"

#include <cmath>

#include "tree/two_best.h"

namespace tk::tree::ref {
namespace {

// Two passes in double. What the softmax of a NaN, of +inf or of nothing but -inf is, falls out of the arithmetic.
template <class T>
void row_facts(const RowStatsArgs& a, int64_t row) {
  const T* logits = logits_row<T>(a, row);
  const auto z = [&](int64_t j) { return static_cast<double>(to_float(logits[j])) * a.scale * std::log(2.0); };
  TwoBest best = no_best();
  bool nothing = true;
  for (int64_t j = 0; j < a.width; ++j) {
    offer(&best, {score_key(to_float(logits[j])), j});
    nothing &= to_float(logits[j]) == -INFINITY;
  }
  const double largest = z(best.first.index);
  double sum = 0;
  for (int64_t j = 0; j < a.width; ++j) sum += std::exp(z(j) - largest);
  const auto log_share = [&](int64_t j) { return (z(j) - largest) - std::log(sum); };
  const auto share = [&](int64_t j) { return std::exp(log_share(j)); };
  double entropy = 0;
  for (int64_t j = 0; j < a.width; ++j) entropy -= share(j) == 0 ? 0 : share(j) * log_share(j);
  a.lse[row] = nothing ? -INFINITY : static_cast<float>(largest + std::log(sum));
  a.entropy[row] = static_cast<float>(entropy);
  const int64_t chosen[] = {best.first.index, best.second.index};
  for (int i = 0; i < 2; ++i) {
    a.best[2 * row + i] = chosen[i];
    a.p_best[2 * row + i] = chosen[i] < 0 ? 0 : static_cast<float>(share(chosen[i]));
  }
  for (int64_t k = row * a.named; k < (row + 1) * a.named; ++k) a.p_ids[k] = static_cast<float>(share(a.ids[k]));
}

}  // namespace

void row_stats(const RowStatsArgs& a) {
  for (int64_t row = 0; row < a.batch * a.rows; ++row) {
    TK_FLOAT_SWITCH(a.dtype, T, row_facts<T>(a, row))
  }
}

}  // namespace tk::tree::ref
