// SPDX-License-Identifier: Apache-2.0
// Family attention, rows picked by index and turned by their rotary embedding: checked arguments -> launcher.
#include "attention/rope_gather.h"
#include "attention/rope_scatter.h"
#include "bind/attention_policy.h"
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {
namespace {

// cos and sin, both or neither, over N places of D columns.
attention::RopeTable take_table(Call& call, py::handle cos_, py::handle sin_) {
  if (cos_.is_none() != sin_.is_none()) {
    call.fail_value("sin", cos_.is_none() ? "None, as cos" : "given, as cos", cos_.is_none() ? "an array" : "None");
  }
  const Tensor cos = call.optional("cos", cos_, kF32, "B N D|N D");
  const Tensor sin = call.optional("sin", sin_, kF32, "B N D|N D");
  if (!cos) return {};
  if (call.dim('D') % 2 != 0)
    call.fail_value("x", "an even head width with cos and sin", std::to_string(call.dim('D')));
  const auto batch_stride = [](const Tensor& t) { return t.ndim == 3 ? t.stride(0) : 0; };
  return {cos.as<float>(),          sin.as<float>(),   batch_stride(cos),
          cos.stride(cos.ndim - 2), batch_stride(sin), sin.stride(sin.ndim - 2)};
}

attention::RopeIndex take_rope_index(Call& call, py::handle index_) {
  const Tensor index = call.in("index", index_, kIndex, "B N|N");
  call.check_index("index", index, call.dim('U'));
  return {index.as<int64_t>(), index.ndim == 2 ? index.stride(0) : 0};
}

void check_width(const Call& call) {
  if (call.dim('D') <= 256) return;
  call.fail_value("x", "a head width up to 256", std::to_string(call.dim('D')));
}

py::object rope_gather(py::handle x_, py::handle index_, py::handle cos_, py::handle sin_, py::handle out_) {
  Call call("rope_gather");
  const Tensor x = call.in("x", x_, kFloat, "B H U D");
  check_width(call);
  const attention::RopeIndex index = take_rope_index(call, index_);
  const attention::RopeTable table = take_table(call, cos_, sin_);
  const Tensor out = call.out("out", out_, x.dtype, "B H N D");
  TK_RUN(call, attention, rope_gather,
         attention::RopeGatherArgs{head_rows(x), index, table, out.data, x.dtype, call.dim('B'), call.dim('H'),
                                   call.dim('U'), call.dim('N'), call.dim('D')});
  return call.results();
}

py::object rope_scatter(py::handle x_, py::handle index_, py::handle rows, py::handle cos_, py::handle sin_, bool mean,
                        py::handle out_) {
  Call call("rope_scatter");
  const Tensor x = call.in("x", x_, kFloat, "B H N D");
  check_width(call);
  call.set_count("rows", 'U', rows);
  const attention::RopeIndex index = take_rope_index(call, index_);
  const attention::RopeTable table = take_table(call, cos_, sin_);
  const Tensor out = call.out("out", out_, x.dtype, "B H U D");
  TK_RUN(call, attention, rope_scatter,
         attention::RopeScatterArgs{head_rows(x), index, table, out.data, x.dtype, mean, call.dim('B'), call.dim('H'),
                                    call.dim('U'), call.dim('N'), call.dim('D')});
  return call.results();
}

}  // namespace

void bind_attention_rope(py::module_& m) {
  m.def("rope_gather", &rope_gather);
  m.def("rope_scatter", &rope_scatter);
}

}  // namespace tk::bind
