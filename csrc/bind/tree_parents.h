// SPDX-License-Identifier: Apache-2.0
// The argument `parents` of ops over trees of draft tokens.
#pragma once
#include "bind/call.h"
#include "tree/parents.h"

namespace tk::bind {

// (T) or (B, T) without gaps, by `shape`: "T", "B T" or "T|B T". T is in [1, kMostNodes]. On the host every tree is
// checked: -1 for node 0, a smaller node for every other, and -1 only for padding behind the last node. On a device
// only the shape is, and kernels must not trust the values.
Tensor tree_parents(Call& call, py::handle object, const char* shape);

inline tree::Parents parents_of(const Tensor& parents) {
  return {parents.as<int64_t>(), parents.ndim == 2 ? parents.stride(0) : 0};
}

}  // namespace tk::bind
