// SPDX-License-Identifier: Apache-2.0
#include "tree/tree_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tk::tree::ref {
namespace {

// The cache rows that a node sees, in ascending order.
std::vector<int64_t> rows_seen(const TreeAttentionArgs& a, int64_t b, int64_t node) {
  const int64_t* parents = a.parents.nodes + b * a.parents.batch_stride;
  std::vector<int64_t> rows;
  for (int64_t n = node; n >= 0; n = parents[n]) rows.push_back(prefix_length(a, b) + n);
  for (int64_t j = prefix_length(a, b) - 1; j >= 0; --j) rows.push_back(j);
  std::reverse(rows.begin(), rows.end());
  return rows;
}

template <class T>
void attend(const TreeAttentionArgs& a, int64_t b, int64_t h, int64_t node) {
  const int64_t group = h / (a.heads / a.groups);
  const auto row_of = [&](const HeadRows& cache, int64_t j) {
    return head_row<T>(cache, 0, group) + cache_offset(cache, a.table, b, j);
  };
  const std::vector<int64_t> rows = rows_seen(a, b, node);
  std::vector<double> scores;
  double most = -INFINITY;
  for (const int64_t j : rows) {
    double product = 0;
    for (int64_t d = 0; d < a.width; ++d) {
      product += static_cast<double>(to_float(head_row<T>(a.q, b, h, node)[d])) * to_float(row_of(a.k, j)[d]);
    }
    scores.push_back(a.scale * product);
    most = scores.back() > most || std::isnan(scores.back()) ? scores.back() : most;
  }
  double sum = 0;
  for (const double s : scores) sum += most == -INFINITY ? 0 : std::exp(s - most);
  const double lse = most + std::log(sum);
  const int64_t at = (b * a.heads + h) * a.nodes + node;
  if (a.lse) a.lse[at] = static_cast<float>(lse);
  for (int64_t d = 0; d < a.width; ++d) {
    double answer = std::isnan(lse) ? lse : 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (scores[i] != -INFINITY) answer += std::exp(scores[i] - lse) * to_float(row_of(a.v, rows[i])[d]);
    }
    static_cast<T*>(a.out)[at * a.width + d] = from_float<T>(static_cast<float>(answer));
  }
}

template <class T>
void skip(const TreeAttentionArgs& a, int64_t row) {
  if (a.lse) a.lse[row] = -INFINITY;
  for (int64_t d = 0; d < a.width; ++d) static_cast<T*>(a.out)[row * a.width + d] = from_float<T>(0.0f);
}

}  // namespace

void tree_attention(const TreeAttentionArgs& a) {
  for (int64_t row = 0; row < a.batch * a.heads * a.nodes; ++row) {
    const int64_t b = row / a.nodes / a.heads;
    const int64_t node = row % a.nodes;
    const bool padded = node >= count_nodes(a, b);
    TK_FLOAT_SWITCH(a.dtype, T, padded ? skip<T>(a, row) : attend<T>(a, b, row / a.nodes % a.heads, node))
  }
}

}  // namespace tk::tree::ref
