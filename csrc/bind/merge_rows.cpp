// SPDX-License-Identifier: Apache-2.0
// Family merge, rows moved by index: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"
#include "merge/gather_rows.h"
#include "merge/scatter_add_rows.h"
#include "merge/scatter_rows.h"

namespace tk::bind {
namespace {

py::object gather_rows(py::handle x_, py::handle index_, py::handle out_) {
  Call call("gather_rows");
  const Tensor x = call.in("x", x_, kFloat, "B N C");
  const Tensor index = call.in("index", index_, kIndex, "B M");
  const Tensor out = call.out("out", out_, x.dtype, "B M C");
  call.check_index("index", index, call.dim('N'));
  TK_RUN(call, merge, gather_rows,
         merge::GatherRowsArgs{x.data, index.as<int64_t>(), out.data, x.dtype, call.dim('B'), call.dim('N'),
                               call.dim('M'), call.dim('C'), x.stride(0), x.stride(1)});
  return call.results();
}

py::object scatter_rows(py::handle y_, py::handle index_, py::handle n_, py::handle base_, py::handle out_) {
  Call call("scatter_rows");
  const Tensor y = call.in("y", y_, kFloat, "B M C");
  const Tensor index = call.in("index", index_, kIndex, "B M");
  const int64_t n = call.set_count("n", 'N', n_);
  const Tensor base = call.optional("base", base_, dtype_bit(y.dtype), "B N C");
  call.check_index("index", index, n);
  const Tensor out = call.out("out", out_, y.dtype, "B N C");
  TK_RUN(
      call, merge, scatter_rows,
      merge::ScatterRowsArgs{y.data, index.as<int64_t>(), base.data, out.data, y.dtype, call.dim('B'), n, call.dim('M'),
                             call.dim('C'), y.stride(0), y.stride(1), base.stride(0), base.stride(1)});
  return call.results();
}

py::object scatter_rows_backward(py::handle grad_, py::handle index_, py::handle out_) {
  Call call("scatter_rows_backward");
  const Tensor grad = call.in("grad", grad_, kFloat, "B N C");
  const Tensor index = call.in("index", index_, kIndex, "B M");
  call.check_index("index", index, call.dim('N'));
  const Tensor out = call.out("out", out_, grad.dtype, "B M C");
  TK_RUN(call, merge, scatter_rows_backward,
         merge::ScatterRowsBackwardArgs{grad.data, index.as<int64_t>(), out.data, grad.dtype, call.dim('B'),
                                        call.dim('N'), call.dim('M'), call.dim('C'), grad.stride(0), grad.stride(1)});
  return call.results();
}

py::object scatter_add_rows(py::handle y_, py::handle index_, py::handle n_, py::handle weight_, py::handle out_) {
  Call call("scatter_add_rows");
  const Tensor y = call.in("y", y_, kFloat, "B M C");
  const Tensor index = call.in("index", index_, kIndex, "B M");
  const Tensor weight = call.optional_dense("weight", weight_, kF32, "B M");
  const int64_t n = call.set_count("n", 'N', n_);
  call.check_index("index", index, n);
  const Tensor out = call.out("out", out_, y.dtype, "B N C");
  TK_RUN(call, merge, scatter_add_rows,
         merge::ScatterAddRowsArgs{y.data, index.as<int64_t>(), weight.as<float>(), out.data, y.dtype, call.dim('B'), n,
                                   call.dim('M'), call.dim('C'), y.stride(0), y.stride(1)});
  return call.results();
}

py::object scatter_add_rows_backward(py::handle grad_, py::handle y_, py::handle index_, py::handle weight_) {
  Call call("scatter_add_rows_backward");
  const Tensor grad = call.in("grad", grad_, kFloat, "B N C");
  const Tensor y = call.in("y", y_, dtype_bit(grad.dtype), "B M C");
  const Tensor index = call.in("index", index_, kIndex, "B M");
  const Tensor weight = call.dense("weight", weight_, kF32, "B M");
  call.check_index("index", index, call.dim('N'));
  const Tensor grad_y = call.out("grad_y", py::none(), y.dtype, "B M C");
  const Tensor grad_weight = call.out("grad_weight", py::none(), DType::f32, "B M");
  TK_RUN(
      call, merge, scatter_add_rows_backward,
      merge::ScatterAddRowsBackwardArgs{grad.data, y.data, index.as<int64_t>(), weight.as<float>(), grad_y.data,
                                        grad_weight.as<float>(), y.dtype, call.dim('B'), call.dim('N'), call.dim('M'),
                                        call.dim('C'), grad.stride(0), grad.stride(1), y.stride(0), y.stride(1)});
  return call.results();
}

}  // namespace

void bind_merge_rows(py::module_& m) {
  m.def("gather_rows", &gather_rows);
  m.def("scatter_rows", &scatter_rows);
  m.def("scatter_rows_backward", &scatter_rows_backward);
  m.def("scatter_add_rows", &scatter_add_rows);
  m.def("scatter_add_rows_backward", &scatter_add_rows_backward);
}

}  // namespace tk::bind
