// SPDX-License-Identifier: Apache-2.0
// verify_greedy: the walk of a target's own choices down a tree of draft tokens. From node 0 on, the first child (by
// node) whose token is the target's at this node is the next node; where none is, the target's token is the bonus.
//
//   tokens    (B, T)  int64, contiguous: the draft tokens; that of node 0 is never read
//   target    (B, T)  int64, contiguous: what the target would say behind each node
//   parents           see tree/parents.h
//   path      (B, T)  int64, contiguous: the nodes of the walk from node 0 on, then -1
//   accepted  (B)     int64: nodes of the walk without node 0
//   bonus     (B)     int64: the target's token at its last node
//
// A child comes after its parent, so one pass over the nodes is enough, whatever the parents say on a device.
#pragma once
#include "core/op.h"
#include "tree/parents.h"

namespace tk::tree {

struct VerifyGreedyArgs {
  const int64_t *tokens, *target;
  Parents parents;
  int64_t *path, *accepted, *bonus;
  int64_t batch, nodes;  // B, T
};

TK_DECLARE_OP(verify_greedy, VerifyGreedyArgs)

}  // namespace tk::tree
