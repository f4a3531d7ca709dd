// SPDX-License-Identifier: Apache-2.0
#include "tree/verify_stochastic.h"

#include <cmath>
#include <optional>

#include "tree/entropy.h"
#include "tree/mass_row.ref.h"

namespace tk::tree::ref {
namespace {

// One sequence. Rows are read when a walk comes to their node, and remembered as broken where they are.
template <class T>
struct Sequence {
  const VerifyStochasticArgs& a;
  int64_t b;
  std::optional<int64_t> broken = {};

  int64_t parent(int64_t node) const { return a.parents.nodes[b * a.parents.batch_stride + node]; }
  int64_t token(int64_t node) const { return a.tokens[b * a.nodes + node]; }
  float uniform(int64_t i) const { return a.uniforms[b * (a.nodes + 1) + i]; }

  MassRow target(int64_t node) {
    const T* row = static_cast<const T*>(a.target) + b * a.target_batch_stride + node * a.target_row_stride;
    return checked(read_mass_row(row, a.width, a.slack), broken_row(node, false));
  }
  MassRow draft(int64_t node) {
    if (node >= a.draft_rows) return checked({{}, 0, 0.0f, false}, broken_row(node, true));
    const T* row = static_cast<const T*>(a.draft) + b * a.draft_batch_stride + node * a.draft_row_stride;
    return checked(read_mass_row(row, a.width, a.slack), broken_row(node, true));
  }
  MassRow checked(MassRow row, int64_t code) {
    if (!row.valid && !broken) broken = code;
    return row;
  }
  std::vector<int64_t> children(int64_t node) const {
    std::vector<int64_t> found;
    for (int64_t c = node + 1; c < a.nodes; ++c) {
      if (parent(c) == node) found.push_back(c);
    }
    return found;
  }
  bool has_word(int64_t node) const { return token(node) >= 0 && token(node) < a.width; }
};

// The kept child of a node, or -1; p becomes what is left for the bonus.
template <class T>
int64_t kept_child(Sequence<T>& s, int64_t node, const std::vector<int64_t>& children, MassRow& p) {
  const VerifyStochasticArgs& a = s.a;
  MassRow q;
  if (draws_from_draft(a.rule) && !children.empty()) q = s.draft(node);
  if (s.broken) return -1;
  const float p_scale = p.scale;
  double tested = 0;
  for (const int64_t c : children) {
    if (!s.has_word(c)) continue;
    const int64_t x = s.token(c);
    const float u = s.uniform(c);
    if (a.rule == Rule::sequoia) {
      if (keeps_sequoia(p.share(x), q.share(x), u)) return c;
      p = residual_row(p, q);
      q.items[static_cast<size_t>(x)] = 0.0f;
      q = weigh_row(std::move(q.items));
      if (q.mass == 0) return -1;
    } else if (a.rule == Rule::specinfer) {
      if (keeps_specinfer(p.share(x), q.share(x), u)) return c;
      p = residual_row(p, q);
    } else if (a.rule == Rule::eagle) {
      if (keeps_eagle(p.share(x), u)) return c;
      p = without_item(p, x);
    } else {
      const double share = scaled(p.items[static_cast<size_t>(x)], p_scale);
      tested += share;
      if (keeps_target_only(a, share, tested, s.uniform(node))) return c;
      p = without_item(p, x);
    }
  }
  return -1;
}

template <class T>
std::vector<int64_t> walk(Sequence<T>& s, int64_t* bonus) {
  std::vector<int64_t> path;
  for (int64_t node = 0; node >= 0;) {
    path.push_back(node);
    MassRow p = s.target(node);
    if (s.broken) return path;
    node = kept_child(s, node, s.children(node), p);
    if (node < 0 && !s.broken) *bonus = draw_item(p, s.uniform(s.a.nodes));
  }
  return path;
}

double smallest_kept(const VerifyStochasticArgs& a, const MassRow& p) {
  int64_t units = 0;
  for (const float item : p.items) units += mass_units(entropy_item<ScalarNumbers>(item, p.scale));
  return std::fmin(a.epsilon, a.alpha * spread_of(units));
}

// Typical acceptance: every node with a kept path, then the best of them.
template <class T>
std::vector<int64_t> best_path(Sequence<T>& s, int64_t* bonus) {
  std::vector<std::vector<int64_t>> paths(static_cast<size_t>(s.a.nodes));
  std::vector<double> score(paths.size());
  paths[0] = {0};
  size_t best = 0;
  for (size_t node = 0; node < paths.size(); ++node) {
    if (paths[node].empty()) continue;
    const size_t length = paths[node].size();
    const size_t longest = paths[best].size();
    if (length > longest || (length == longest && score[node] > score[best])) best = node;
    const std::vector<int64_t> children = s.children(static_cast<int64_t>(node));
    if (children.empty()) continue;
    const MassRow p = s.target(static_cast<int64_t>(node));
    if (s.broken) return {};
    const double smallest = smallest_kept(s.a, p);
    for (const int64_t c : children) {
      if (!s.has_word(c) || !(p.share(s.token(c)) > smallest)) continue;
      paths[static_cast<size_t>(c)] = paths[node];
      paths[static_cast<size_t>(c)].push_back(c);
      score[static_cast<size_t>(c)] = score[node] + log_share(p.share(s.token(c)));
    }
  }
  const MassRow p = s.target(static_cast<int64_t>(best));
  if (!s.broken) *bonus = draw_item(p, s.uniform(s.a.nodes));
  return paths[best];
}

template <class T>
void verify_sequence(const VerifyStochasticArgs& a, int64_t b) {
  Sequence<T> s{a, b};
  int64_t bonus = -1;
  std::vector<int64_t> path = a.rule == Rule::typical ? best_path(s, &bonus) : walk(s, &bonus);
  if (s.broken) path.clear();
  a.accepted[b] = s.broken ? *s.broken : static_cast<int64_t>(path.size()) - 1;
  a.bonus[b] = bonus;
  path.resize(static_cast<size_t>(a.nodes), -1);
  for (int64_t t = 0; t < a.nodes; ++t) a.path[b * a.nodes + t] = path[static_cast<size_t>(t)];
}

}  // namespace

void verify_stochastic(const VerifyStochasticArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    TK_FLOAT_SWITCH(a.dtype, T, verify_sequence<T>(a, b))
  }
}

}  // namespace tk::tree::ref
