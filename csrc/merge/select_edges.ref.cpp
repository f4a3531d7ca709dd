// SPDX-License-Identifier: Apache-2.0
#include "merge/select_edges.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace tk::merge::ref {
namespace {

using Rows = std::vector<int64_t>;

bool counts(const SelectEdgesArgs& a, int64_t b, int64_t token) { return !a.valid || a.valid[b * a.tokens + token]; }

// The rows that count, best first, the class token last.
Rows ranked_rows(const SelectEdgesArgs& a, int64_t b) {
  Rows rows;
  for (int64_t i = 0; i < a.rows; ++i) {
    if (counts(a, b, row_token(a, b, i))) rows.push_back(i);
  }
  const auto score = [&](int64_t row) {
    const float s = a.score ? a.score[b * a.rows + row] : 0.0f;
    return s == s ? s : -std::numeric_limits<float>::infinity();
  };
  std::stable_sort(rows.begin(), rows.end(), [&](int64_t i, int64_t j) {
    if (a.class_token && (i == 0 || j == 0)) return j == 0 && i != 0;
    return score(i) > score(j);
  });
  return rows;
}

void write_padded(const Rows& values, int64_t* out, int64_t width) {
  std::fill(out, out + width, int64_t{-1});
  std::copy(values.begin(), values.end(), out);
}

void select_sample(const SelectEdgesArgs& a, int64_t b) {
  const Rows rows = ranked_rows(a, b);
  const bool has_class = a.class_token && !rows.empty() && rows.back() == 0;
  const auto takeable = static_cast<int64_t>(rows.size()) - has_class;
  const int64_t taken = std::min(a.take ? a.take[b] : a.edges, takeable);
  const Rows src(rows.begin(), rows.begin() + taken);
  Rows unm(rows.begin() + taken, rows.end());
  if (a.sort_unmerged) std::sort(unm.begin(), unm.end());
  Rows dst;
  for (const int64_t row : src) dst.push_back(a.index[b * a.rows + row]);

  int64_t* map = a.map + b * a.tokens;
  std::fill(map, map + a.tokens, int64_t{-1});
  const auto unmerged = static_cast<int64_t>(unm.size());
  for (int64_t k = 0; k < unmerged; ++k) map[row_token(a, b, unm[k])] = unmerged_position(a, k);
  for (int64_t j = 0, k = 0; j < a.columns; ++j) {
    if (counts(a, b, column_token(a, b, j))) map[column_token(a, b, j)] = column_position(a, k++, unmerged);
  }
  for (const int64_t row : src) map[row_token(a, b, row)] = map[column_token(a, b, a.index[b * a.rows + row])];

  write_padded(unm, a.unm + b * unmerged_width(a), unmerged_width(a));
  write_padded(src, a.src + b * a.edges, a.edges);
  write_padded(dst, a.dst + b * a.edges, a.edges);
}

}  // namespace

void select_edges(const SelectEdgesArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) select_sample(a, b);
}

}  // namespace tk::merge::ref
