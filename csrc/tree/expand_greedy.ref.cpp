// SPDX-License-Identifier: Apache-2.0
#include "tree/expand_greedy.h"

#include <algorithm>
#include <vector>

namespace tk::tree::ref {
namespace {

struct Pending {
  float value;
  int64_t node, rank;
};

struct Search {
  const ExpandGreedyArgs& a;
  int64_t row, count = 1;
  std::vector<int64_t> depth = std::vector<int64_t>(static_cast<size_t>(a.nodes), 0);

  int64_t at(int64_t node) const { return row * a.nodes + node; }
  bool known(int64_t node) const { return a.known[at(node)] != 0; }
  bool bears(int64_t node) const { return depth[static_cast<size_t>(node)] < a.max_depth; }

  int64_t add(const Pending& draw, float p) {
    const int64_t child = count++;
    depth[static_cast<size_t>(child)] = depth[static_cast<size_t>(draw.node)] + 1;
    a.parents[at(child)] = draw.node;
    a.rank[at(child)] = draw.rank;
    a.value[at(child)] = draw.value * p;
    return child;
  }

  void by_budget() {
    std::vector<Pending> pending;  // in the order of pushing
    if (bears(0)) pending.push_back({1.0f, 0, 0});
    while (count <= a.budget && !pending.empty()) {
      const auto best = std::max_element(pending.begin(), pending.end(),
                                         [](const Pending& x, const Pending& y) { return x.value < y.value; });
      const Pending draw = *best;
      if (!known(draw.node)) {
        a.wanted[at(draw.node)] = 1;
        return;
      }
      pending.erase(best);
      const float p = draw_chance(a, at(draw.node), draw.rank);
      if (p == 0) continue;
      const int64_t child = add(draw, p);
      pending.push_back({draw.value * (1 - p), draw.node, draw.rank + 1});
      if (bears(child)) pending.push_back({draw.value * p, child, 0});
    }
  }

  void by_threshold() {
    int64_t begin = 0;
    while (begin < count && count < a.nodes) {
      const int64_t end = count;
      bool stop = false;
      for (int64_t i = begin; i < end; ++i) {
        const bool draws = bears(i) && a.value[at(i)] >= a.threshold;
        a.wanted[at(i)] = draws && !known(i);
        stop |= a.wanted[at(i)] != 0;
      }
      if (stop) return;
      for (int64_t i = begin; i < end && bears(i); ++i) {
        Pending draw{a.value[at(i)], i, 0};
        while (draw.value >= a.threshold && count < a.nodes) {
          const float p = draw_chance(a, at(i), draw.rank);
          if (p == 0) break;
          add(draw, p);
          draw = {draw.value * (1 - p), i, draw.rank + 1};
        }
      }
      begin = end;
    }
  }
};

}  // namespace

void expand_greedy(const ExpandGreedyArgs& a) {
  for (int64_t row = 0; row < a.batch; ++row) {
    for (int64_t i = row * a.nodes; i < (row + 1) * a.nodes; ++i) {
      a.parents[i] = a.rank[i] = -1;
      a.value[i] = 0;
      a.wanted[i] = 0;
    }
    a.rank[row * a.nodes] = 0;
    a.value[row * a.nodes] = 1;
    Search search{a, row};
    a.budget >= 0 ? search.by_budget() : search.by_threshold();
    a.count[row] = search.count;
  }
}

}  // namespace tk::tree::ref
