// SPDX-License-Identifier: Apache-2.0
// Scores of one side of attention_map_ce, for the scalar references.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/attention_map_ce.h"
#include "attention/scalar.ref.h"

namespace tk::attention::ref {

template <class T>
std::vector<double> map_scores(const MapSide& side, int64_t b, int64_t h, int64_t i, int64_t keys) {
  std::vector<double> scores(keys);
  const T* row = head_row<T>(side.rows, b, h, i);
  for (int64_t j = 0; j < keys; ++j) {
    scores[j] =
        side.is_logits() ? to_double(row[j]) : side.scale * dot(row, head_row<T>(side.columns, b, h, j), side.width);
  }
  return scores;
}

inline double plain_lse(const std::vector<double>& scores) {
  double most = kMinusInfinity;
  for (const double s : scores) most = s > most || std::isnan(s) ? s : most;
  if (!std::isfinite(most)) return most;
  double sum = 0;
  for (const double s : scores) sum += std::exp(s - most);
  return most + std::log(sum);
}

}  // namespace tk::attention::ref
