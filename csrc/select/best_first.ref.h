// SPDX-License-Identifier: Apache-2.0
// The items of a row in the order of score_rows.h, for the scalar references: a stable sort.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "select/score_rows.h"

namespace tk::selection::ref {
namespace {

template <class T>
std::vector<int64_t> best_first(const ScoreRows& s, int64_t row) {
  const T* score = score_row<T>(s, row);
  const uint8_t* mask = mask_row(s, row);
  const auto group = [&](int64_t j) { return mask && !mask[j] ? 2 : std::isnan(to_float(score[j])) ? 1 : 0; };
  std::vector<int64_t> order(static_cast<size_t>(s.width));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    if (group(i) != group(j)) return group(i) < group(j);
    return group(i) == 0 && to_float(score[i]) > to_float(score[j]);
  });
  return order;
}

}  // namespace
}  // namespace tk::selection::ref
