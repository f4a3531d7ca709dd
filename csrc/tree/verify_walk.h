// SPDX-License-Identifier: Apache-2.0
// The walks of verify_stochastic, for any machine that can read and draw from rows: a processor with vectors, or a
// block of GPU threads that all walk together and share the work on a row.
//
// A Machine m has the current p and q of one sequence, and:
//   m.next_child(node, from)   the first child of a node from node `from` on, or the number of nodes
//   m.read_target(node), m.read_draft(node)   make p or q the row of a node; false where it is no distribution
//   m.p_share(x), m.q_share(x)                an item, scaled
//   m.p_item(x), m.p_scale()                  an item as it is, and what scales it
//   m.subtract()               p <- max(p - q, 0) unless that is nothing
//   m.remove_from_p(x)         p(x) <- 0 unless nothing else has mass
//   m.remove_from_q(x)         q(x) <- 0; false where q has nothing left
//   m.draw(u), m.spread()      an item of p; exp of minus its entropy
//   m.set_path(t, node)        writes path[t]
//   m.depth(node), m.score(node), m.keep(node, depth, score), m.settle()   what is known of nodes with kept paths: a
//                              depth of -1 for the others; settle makes what was kept known
#pragma once
#include "tree/entropy.h"
#include "tree/verify_stochastic.h"

// Inlined whole into one kernel, whose machine is of the processor or of the device alone.
#if defined(__CUDACC__)
#define TK_WALK static __device__ __forceinline__
#else
#define TK_WALK TK_INLINE
#endif

namespace tk::tree {

struct Walk {
  int64_t accepted;
  int64_t bonus;  // -1 where a row was broken, which accepted then tells
};

TK_INLINE Walk stopped_at(int64_t node, bool draft) { return {broken_row(node, draft), -1}; }

// Tests one child; true where it is kept. `tested` and `p_scale` are of the node: the mass tested so far, and what p
// was scaled by when the walk came here. `more` becomes false where no further child may be tested.
template <class Machine>
TK_WALK bool keeps_child(const VerifyStochasticArgs& a, Machine& m, int64_t x, float coin, float node_coin,
                         float p_scale, double* tested, bool* more) {
  switch (a.rule) {
    case Rule::sequoia:
      if (keeps_sequoia(m.p_share(x), m.q_share(x), coin)) return true;
      m.subtract();
      *more = m.remove_from_q(x);
      return false;
    case Rule::specinfer:
      if (keeps_specinfer(m.p_share(x), m.q_share(x), coin)) return true;
      m.subtract();
      return false;
    case Rule::eagle:
      if (keeps_eagle(m.p_share(x), coin)) return true;
      m.remove_from_p(x);
      return false;
    default: {
      const double share = scaled(m.p_item(x), p_scale);
      *tested += share;
      if (keeps_target_only(a, share, *tested, node_coin)) return true;
      m.remove_from_p(x);
      return false;
    }
  }
}

TK_INLINE bool has_word(const VerifyStochasticArgs& a, int64_t token) { return token >= 0 && token < a.width; }

template <class Machine>
TK_WALK Walk walk_lossless(const VerifyStochasticArgs& a, const int64_t* tokens, const float* uniforms, Machine& m) {
  int64_t node = 0;
  int64_t accepted = 0;
  m.set_path(0, 0);
  while (true) {
    if (!m.read_target(node)) return stopped_at(node, false);
    int64_t child = m.next_child(node, node + 1);
    if (child < a.nodes && draws_from_draft(a.rule) && !m.read_draft(node)) return stopped_at(node, true);
    const float p_scale = m.p_scale();
    double tested = 0;
    bool more = true;
    bool kept = false;
    while (child < a.nodes) {
      if (has_word(a, tokens[child])) {
        kept = keeps_child(a, m, tokens[child], uniforms[child], uniforms[node], p_scale, &tested, &more);
        if (kept || !more) break;
      }
      child = m.next_child(node, child + 1);
    }
    if (!kept) return {accepted, m.draw(uniforms[a.nodes])};
    node = child;
    m.set_path(++accepted, node);
  }
}

template <class Machine>
TK_WALK void keep_typical_children(const VerifyStochasticArgs& a, const int64_t* tokens, int64_t node, int64_t child,
                                   Machine& m) {
  const double smallest_share = a.alpha * m.spread();
  const double smallest = smallest_share < a.epsilon ? smallest_share : a.epsilon;
  const int64_t depth = m.depth(node) + 1;
  const double score = m.score(node);
  for (; child < a.nodes; child = m.next_child(node, child + 1)) {
    if (!has_word(a, tokens[child])) continue;
    const double share = m.p_share(tokens[child]);
    if (share > smallest) m.keep(child, depth, score + log_share(share));
  }
  m.settle();
}

template <class Machine>
TK_WALK Walk walk_typical(const VerifyStochasticArgs& a, const int64_t* tokens, const int64_t* parents,
                          const float* uniforms, Machine& m) {
  int64_t best = 0;
  for (int64_t node = 0; node < a.nodes; ++node) {
    if (m.depth(node) < 0) continue;
    const bool longer = m.depth(node) > m.depth(best);
    if (longer || (m.depth(node) == m.depth(best) && m.score(node) > m.score(best))) best = node;
    const int64_t child = m.next_child(node, node + 1);
    if (child == a.nodes) continue;
    if (!m.read_target(node)) return stopped_at(node, false);
    keep_typical_children(a, tokens, node, child, m);
  }
  if (!m.read_target(best)) return stopped_at(best, false);
  const Walk walk{m.depth(best), m.draw(uniforms[a.nodes])};
  for (int64_t node = best, t = walk.accepted; t >= 0; --t) {
    m.set_path(t, node);
    node = parents[node];
  }
  return walk;
}

template <class Machine>
TK_WALK Walk walk_tree(const VerifyStochasticArgs& a, int64_t b, Machine& m) {
  const int64_t* tokens = a.tokens + b * a.nodes;
  const float* uniforms = a.uniforms + b * (a.nodes + 1);
  if (a.rule != Rule::typical) return walk_lossless(a, tokens, uniforms, m);
  return walk_typical(a, tokens, a.parents.nodes + b * a.parents.batch_stride, uniforms, m);
}

}  // namespace tk::tree

#undef TK_WALK
