// SPDX-License-Identifier: Apache-2.0
#include "bind/tree_parents.h"

#include <string>

namespace tk::bind {
namespace {

// What the parent of a node must be, or null.
const char* broken_parent_rule(const int64_t* parents, int64_t node) {
  const int64_t parent = parents[node];
  if (node == 0) return parent == -1 ? nullptr : "-1 for node 0";
  if (parent < -1 || parent >= node) return "smaller than its node, or -1 for padding";
  if (parent >= 0 && node > 1 && parents[node - 1] == -1) return "-1 behind padding";
  return nullptr;
}

}  // namespace

Tensor tree_parents(Call& call, py::handle object, const char* shape) {
  const Tensor parents = call.dense("parents", object, kIndex, shape);
  const int64_t nodes = parents.size(parents.ndim - 1);
  if (nodes < 1) call.fail_value("parents", "of at least one node", "an empty tree");
  if (nodes > tree::kMostNodes) {
    call.fail_value("parents", "of at most " + std::to_string(tree::kMostNodes) + " nodes", std::to_string(nodes));
  }
  if (!Call::on_host()) return parents;
  const int64_t trees = parents.ndim == 2 ? parents.size(0) : 1;
  for (int64_t i = 0; i < trees * nodes; ++i) {
    const char* rule = broken_parent_rule(parents.as<int64_t>() + i / nodes * nodes, i % nodes);
    if (!rule) continue;
    std::string got = std::to_string(parents.as<int64_t>()[i]);  // GCC 12 warns of a sum of strings
    got += " for node ";
    got += std::to_string(i % nodes);
    if (parents.ndim == 2) got += " of tree ", got += std::to_string(i / nodes);
    call.fail_value("parents", rule, got);
  }
  return parents;
}

}  // namespace tk::bind
