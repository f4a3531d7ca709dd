// SPDX-License-Identifier: Apache-2.0
// The trees of a call, as their parents: -1 for node 0, a smaller node for every other, then -1 for padding.
#pragma once
#include <cstdint>

namespace tk::tree {

constexpr int64_t kMostNodes = 4096;  // of one tree

struct Parents {
  const int64_t* nodes;
  int64_t batch_stride;  // 0: one tree for every sequence
};

}  // namespace tk::tree
