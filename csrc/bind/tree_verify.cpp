// SPDX-License-Identifier: Apache-2.0
// Family tree, which draft tokens the target keeps: checked arguments -> launcher.
#include "bind/call.h"
#include "bind/families.h"
#include "bind/tree_parents.h"
#include "tree/verify_greedy.h"

namespace tk::bind {
namespace {

py::object verify_greedy(py::handle tokens_, py::handle target_, py::handle parents_, py::handle path_,
                         py::handle accepted_, py::handle bonus_) {
  Call call("verify_greedy");
  const Tensor tokens = call.dense("tokens", tokens_, kIndex, "T|B T");
  const bool batched = tokens.ndim == 2;
  const Tensor target = call.dense("target", target_, kIndex, batched ? "B T" : "T");
  const Tensor parents = tree_parents(call, parents_, batched ? "T|B T" : "T");
  const Tensor path = call.out("path", path_, DType::i64, batched ? "B T" : "T");
  const Tensor accepted = call.out("accepted", accepted_, DType::i64, batched ? "B" : "");
  const Tensor bonus = call.out("bonus", bonus_, DType::i64, batched ? "B" : "");
  TK_RUN(
      call, tree, verify_greedy,
      tree::VerifyGreedyArgs{tokens.as<int64_t>(), target.as<int64_t>(), parents_of(parents), path.as<int64_t>(),
                             accepted.as<int64_t>(), bonus.as<int64_t>(), batched ? call.dim('B') : 1, call.dim('T')});
  return call.results();
}

}  // namespace

void bind_tree_verify(py::module_& m) { m.def("verify_greedy", &verify_greedy); }

}  // namespace tk::bind
