// SPDX-License-Identifier: Apache-2.0
// Family merge, soft maps and compaction: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"
#include "merge/soft_aggregate.h"
#include "merge/soft_aggregate_backward.h"

namespace tk::bind {
namespace {

py::object soft_aggregate(py::handle x_, py::handle logits_, bool over_targets, py::handle mass_, py::handle out_) {
  Call call("soft_aggregate");
  const Tensor x = call.in("x", x_, kFloat, "B N C");
  const Tensor logits = call.matrices("logits", logits_, kFloat, "B M N");
  const Tensor mass = call.optional_dense("mass", mass_, kF32, "B N");
  const Tensor y = call.out("out", out_, x.dtype, "B M C");
  const Tensor mass_out = over_targets ? call.out("mass_out", py::none(), DType::f32, "B M") : Tensor{};
  TK_RUN(call, merge, soft_aggregate,
         merge::SoftAggregateArgs{x.data, logits.data, mass.as<float>(), y.data, mass_out.as<float>(), x.dtype,
                                  logits.dtype, call.dim('B'), call.dim('N'), call.dim('M'), call.dim('C'), x.stride(0),
                                  x.stride(1), logits.stride(0), logits.stride(1), logits.stride(2)});
  return call.results();
}

// y and mass_out are the results of soft_aggregate; mass_out None means over tokens.
py::object soft_aggregate_backward(py::handle grad_y_, py::handle grad_mass_out_, py::handle x_, py::handle logits_,
                                   py::handle mass_, py::handle y_, py::handle mass_out_) {
  Call call("soft_aggregate_backward");
  const Tensor grad_y = call.in("grad_y", grad_y_, kFloat, "B M C");
  const Tensor grad_mass_out = call.optional_dense("grad_mass_out", grad_mass_out_, kF32, "B M");
  const Tensor x = call.in("x", x_, dtype_bit(grad_y.dtype), "B N C");
  const Tensor logits = call.matrices("logits", logits_, kFloat, "B M N");
  const Tensor mass = call.optional_dense("mass", mass_, kF32, "B N");
  const Tensor y = call.dense("y", y_, dtype_bit(grad_y.dtype), "B M C");
  const Tensor mass_out = call.optional_dense("mass_out", mass_out_, kF32, "B M");
  if (!mass_out && (mass || grad_mass_out)) call.fail_value("mass_out", "an array where there is a mass", "None");
  const Tensor grad_x = call.out("grad_x", py::none(), x.dtype, "B N C");
  const Tensor grad_logits = call.out("grad_logits", py::none(), logits.dtype, "B M N");
  const Tensor grad_mass = mass_out ? call.out("grad_mass", py::none(), DType::f32, "B N") : Tensor{};
  TK_RUN(call, merge, soft_aggregate_backward,
         merge::SoftAggregateBackwardArgs{grad_y.data,
                                          grad_mass_out.as<float>(),
                                          x.data,
                                          logits.data,
                                          mass.as<float>(),
                                          y.data,
                                          mass_out.as<float>(),
                                          grad_x.data,
                                          grad_logits.data,
                                          grad_mass.as<float>(),
                                          x.dtype,
                                          logits.dtype,
                                          call.dim('B'),
                                          call.dim('N'),
                                          call.dim('M'),
                                          call.dim('C'),
                                          grad_y.stride(0),
                                          grad_y.stride(1),
                                          x.stride(0),
                                          x.stride(1),
                                          logits.stride(0),
                                          logits.stride(1),
                                          logits.stride(2)});
  return call.results();
}

}  // namespace

void bind_merge_soft(py::module_& m) {
  m.def("soft_aggregate", &soft_aggregate);
  m.def("soft_aggregate_backward", &soft_aggregate_backward);
}

}  // namespace tk::bind
