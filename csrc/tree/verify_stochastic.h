// SPDX-License-Identifier: Apache-2.0
// verify_stochastic: which draft tokens of a tree a target keeps so that what comes out is distributed as the target's
// own samples. The walk begins at node 0. At a node, p is the target's distribution behind it and q the one its
// children were drawn from; the children are tested in the order of their nodes, child c by its token x and the coin
// u_c:
//   sequoia      children drawn from q without replacement. Kept if p(x) > u_c q(x); else p <- norm(max(p - q, 0)) and
//                q(x) <- 0, q <- norm(q); where q has nothing left, no further child is tested.
//   specinfer    children drawn from q independently. Kept if u_c q(x) <= p(x) and p(x) > 0; else
//                p <- norm(max(p - q, 0)).
//   eagle        children chosen without chance. Kept if u_c <= p(x) and p(x) > 0; else p(x) <- 0, p <- norm(p).
//   target_only  one coin u of the node itself. Kept if u max(threshold_total, 1e-9) <= the p of the children tested so
//                far and of this one, and p(x) > 0, or if p(x) >= threshold_single; else p(x) <- 0 for the tests to
//                come and, normalised, for the bonus.
//   typical      not lossless. Kept if p(x) > min(epsilon, alpha exp(-H)), H = -sum_j p_j log(p_j + 1e-5). All paths
//                are followed; the longest is taken, of equally long ones that of the largest sum of log p(x), then the
//                one that ends at the lowest node.
// Where normalising would divide by 0, p stays what it was. The first kept child is the next node; where none is kept,
// the bonus is drawn from p by the last coin (inverse CDF, as residual_sample). Children whose token is not in [0, V)
// are passed over. Sums, products and draws as in tree/inverse_cdf.h.
//
//   tokens    (B, T)      int64, contiguous
//   target    (B, T, V)   float32, float16 or bfloat16; rows contiguous, any outer strides
//   draft     (B, Q, V)   of the dtype of target, or null; Q at most T, more than every node that has a child
//   uniforms  (B, T + 1)  float32, contiguous, in [0, 1)
//   path      (B, T)      int64, contiguous: the nodes of the walk from node 0 on, then -1
//   accepted  (B)         int64: nodes of the walk without node 0
//   bonus     (B)         int64
//
// Only rows of nodes on the walk (of kept nodes, for typical) are read. Where one is no distribution within `slack`,
// the walk ends: path and bonus are -1, and accepted says which row it was, see broken_row.
#pragma once
#include "core/op.h"
#include "tree/inverse_cdf.h"
#include "tree/parents.h"

namespace tk::tree {

enum class Rule : int { sequoia, specinfer, eagle, target_only, typical };

struct VerifyStochasticArgs {
  const int64_t* tokens;
  Parents parents;
  const void *target, *draft;
  const float* uniforms;
  int64_t *path, *accepted, *bonus;
  DType dtype;
  Rule rule;
  int64_t batch, nodes, width, draft_rows;  // B, T, V, Q
  int64_t target_batch_stride, target_row_stride, draft_batch_stride, draft_row_stride;
  double threshold_single, threshold_total, epsilon, alpha;
  int64_t slack;  // units of mass that a row may be off
};

constexpr double kLeastThreshold = 1e-9;

// What accepted is where the row of a node is no distribution.
TK_INLINE int64_t broken_row(int64_t node, bool draft) { return -1 - (2 * node + (draft ? 1 : 0)); }

TK_INLINE bool draws_from_draft(Rule rule) { return rule == Rule::sequoia || rule == Rule::specinfer; }

// Rows a walk keeps in memory of its own: p, and where p - q is taken, q and the p that was.
TK_INLINE int64_t kept_rows(Rule rule) { return draws_from_draft(rule) ? 3 : 1; }

// The tests, on p(x) and q(x) as `scaled` gives them. A token that the target never says is not kept by a coin of 0.
TK_INLINE bool keeps_sequoia(double p, double q, float u) { return p > static_cast<double>(u) * q; }
TK_INLINE bool keeps_specinfer(double p, double q, float u) { return p > 0.0 && static_cast<double>(u) * q <= p; }
TK_INLINE bool keeps_eagle(double p, float u) { return p > 0.0 && static_cast<double>(u) <= p; }
TK_INLINE bool keeps_target_only(const VerifyStochasticArgs& a, double p, double tested, float u) {
  const double total = a.threshold_total > kLeastThreshold ? a.threshold_total : kLeastThreshold;
  return p >= a.threshold_single || (p > 0.0 && static_cast<double>(u) * total <= tested);
}

TK_DECLARE_OP(verify_stochastic, VerifyStochasticArgs)

}  // namespace tk::tree
