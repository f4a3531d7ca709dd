// SPDX-License-Identifier: Apache-2.0
// Family merge, rows moved by index: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"
#include "merge/gather_rows.h"

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

}  // namespace

void bind_merge_rows(py::module_& m) { m.def("gather_rows", &gather_rows); }

}  // namespace tk::bind
