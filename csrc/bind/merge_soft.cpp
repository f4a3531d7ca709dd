// SPDX-License-Identifier: Apache-2.0
// Family merge, soft maps and compaction: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"
#include "merge/compact_rows.h"
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

py::object count_rows(py::handle mask_) {
  Call call("compact_rows");
  const Tensor mask = call.in("mask", mask_, kMask, "B N");
  call.set('P', call.dim('B') + 1);
  const Tensor cu_seqlens = call.out("cu_seqlens", py::none(), DType::i64, "P");
  TK_RUN(
      call, merge, count_rows,
      merge::CountRowsArgs{mask.as<uint8_t>(), cu_seqlens.as<int64_t>(), call.dim('B'), call.dim('N'), mask.stride(0)});
  return call.results();
}

// `total` is the last of cu_seqlens, which only the caller can read where the memory is on a device.
py::object compact_rows(py::handle mask_, py::handle cu_seqlens_, py::handle total_) {
  Call call("compact_rows");
  const Tensor mask = call.in("mask", mask_, kMask, "B N");
  call.set('P', call.dim('B') + 1);
  const Tensor cu_seqlens = call.dense("cu_seqlens", cu_seqlens_, kIndex, "P");
  const int64_t total = call.set_count("total", 'T', total_);
  call.check_offsets("cu_seqlens", cu_seqlens, total);
  const Tensor index = call.out("index", py::none(), DType::i64, "T");
  TK_RUN(call, merge, compact_rows,
         merge::CompactRowsArgs{mask.as<uint8_t>(), cu_seqlens.as<int64_t>(), index.as<int64_t>(), call.dim('B'),
                                call.dim('N'), mask.stride(0)});
  return call.results();
}

}  // namespace

void bind_merge_soft(py::module_& m) {
  m.def("count_rows", &count_rows);
  m.def("compact_rows", &compact_rows);
  m.def("soft_aggregate", &soft_aggregate);
  m.def("soft_aggregate_backward", &soft_aggregate_backward);
}

}  // namespace tk::bind
