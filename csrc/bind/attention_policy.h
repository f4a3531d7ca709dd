// SPDX-License-Identifier: Apache-2.0
// How a mask policy crosses the binding: a name, whole numbers and arrays, checked against the extents of the call.
#pragma once
#include <string_view>

#include "attention/attention.h"
#include "bind/call.h"
#include "bind/head_rows.h"

namespace tk::bind {

// The policy of a call whose letters B, H, N (queries) and M (keys) are bound.
//   "dense"      ()                                      ()
//   "causal"     (prefix, offset)                        ()
//   "block_map"  ()                                      (map, row offsets, column offsets)
//   "disc"       (height, width, reach, prefix, pooled)  ()
//   "segments"   (causal)                                (cu_q, cu_k)
//   "tree"       (prefix)                                (ancestors, 64 nodes a word)
//   "mask"       (causal, offset)                        (mask)
attention::Policy take_policy(Call& call, std::string_view kind, const py::tuple& numbers, const py::tuple& arrays);

// q and k of a call; binds B, H, N, G, M, D and checks them. float64 only where the scalar reference runs.
struct HeadArgs {
  Tensor q, k;
  attention::Shape shape;
};
HeadArgs take_heads(Call& call, py::handle q, py::handle k);
// More arrays of the dtype of q.
Tensor take_like(Call& call, const char* name, py::handle object, const Tensor& q, const char* shape);

attention::KeyBias take_key_bias(Call& call, py::handle bias);
// None is D^-0.5.
double scale_of(const Call& call, py::handle scale);
double extra_of(const Call& call, py::handle extra);

}  // namespace tk::bind
