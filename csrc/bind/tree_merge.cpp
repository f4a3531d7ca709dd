// SPDX-License-Identifier: Apache-2.0
// Family tree, partial softmaxes made one: checked arguments -> launcher.
#include "bind/call.h"
#include "bind/families.h"
#include "tree/merge_attention.h"
#include "tree/merge_attention_backward.h"

namespace tk::bind {
namespace {

struct Parts {
  Tensor outs, lses;
  HeadRows rows;
  tree::PartLses part_lses;
  tree::PartShape shape;
};

Parts take_parts(Call& call, py::handle outs_, py::handle lses_) {
  Parts p;
  p.outs = call.in("outs", outs_, kFloat, "K B H N D");
  p.lses = call.in("lses", lses_, kF32, "K B H N");
  const Tensor& o = p.outs;
  p.rows = {o.data, o.stride(1), o.stride(2), o.stride(3)};
  p.part_lses = {p.lses.as<float>(), p.lses.stride(0), p.lses.stride(1), p.lses.stride(2)};
  p.shape = {call.dim('K'), call.dim('B'), call.dim('H'), call.dim('N'), call.dim('D')};
  return p;
}

py::object merge_attention(py::handle outs_, py::handle lses_, py::handle out_, py::handle lse_) {
  Call call("merge_attention");
  const Parts p = take_parts(call, outs_, lses_);
  const Tensor out = call.out("out", out_, p.outs.dtype, "B H N D");
  const Tensor lse = call.out("lse", lse_, DType::f32, "B H N");
  TK_RUN(call, tree, merge_attention,
         tree::MergeAttentionArgs{p.rows, p.outs.stride(0), p.part_lses, out.data, lse.as<float>(), p.outs.dtype,
                                  p.shape});
  return call.results();
}

py::object merge_attention_backward(py::handle grad_, py::handle outs_, py::handle lses_, py::handle grad_lse_,
                                    py::handle grad_outs_, py::handle grad_lses_) {
  Call call("merge_attention_backward");
  const Parts p = take_parts(call, outs_, lses_);
  const Tensor grad = call.in("grad", grad_, p.outs.dtype, "B H N D");
  const Tensor grad_lse = call.optional_dense("grad_lse", grad_lse_, kF32, "B H N");
  const Tensor grad_outs = call.out("grad_outs", grad_outs_, p.outs.dtype, "K B H N D");
  const Tensor grad_lses = call.out("grad_lses", grad_lses_, DType::f32, "K B H N");
  TK_RUN(call, tree, merge_attention_backward,
         tree::MergeAttentionBackwardArgs{{grad.data, grad.stride(0), grad.stride(1), grad.stride(2)},
                                          p.rows,
                                          p.outs.stride(0),
                                          p.part_lses,
                                          grad_lse.as<float>(),
                                          grad_outs.data,
                                          grad_lses.as<float>(),
                                          p.outs.dtype,
                                          p.shape});
  return call.results();
}

}  // namespace

void bind_tree_merge(py::module_& m) {
  m.def("merge_attention", &merge_attention);
  m.def("merge_attention_backward", &merge_attention_backward);
}

}  // namespace tk::bind
