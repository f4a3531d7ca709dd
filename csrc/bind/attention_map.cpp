// SPDX-License-Identifier: Apache-2.0
// Family attention, parts and sums of the map: checked arguments -> launcher, one function per op.
#include "attention/attention_column_sums.h"
#include "attention/attention_rows.h"
#include "attention/fold_columns.h"
#include "bind/attention_policy.h"
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {
namespace {

Tensor take_lse(Call& call, py::handle lse, DType dtype) {
  return call.dense("lse", lse, dtype_bit(dtype == DType::f64 ? DType::f64 : DType::f32), "B H N");
}

py::object attention_rows(py::handle q_, py::handle k_, py::handle rows_, py::handle lse_, std::string_view kind,
                          const py::tuple& numbers, const py::tuple& arrays, py::handle key_bias, py::handle scale) {
  Call call("attention_rows");
  const HeadArgs heads = take_heads(call, q_, k_);
  const Tensor rows = call.in("rows", rows_, kIndex, "B R|R");
  const Tensor lse = take_lse(call, lse_, heads.q.dtype);
  const attention::Policy policy = take_policy(call, kind, numbers, arrays);
  const attention::KeyBias bias = take_key_bias(call, key_bias);
  const double scale_value = scale_of(call, scale);
  const Tensor out = call.out("out", py::none(), DType::f32, "B H R M");
  call.check_index("rows", rows, call.dim('N'));
  TK_RUN(call, attention, attention_rows,
         attention::AttentionRowsArgs{head_rows(heads.q), head_rows(heads.k), bias, rows.as<int64_t>(),
                                      rows.ndim == 2 ? rows.stride(0) : 0, call.dim('R'), lse.data, out.as<float>(),
                                      policy, heads.shape, heads.q.dtype, scale_value});
  return call.results();
}

// Groups of keys, when given, and their number, bound to C.
Tensor take_groups(Call& call, py::handle groups_, py::handle count) {
  const Tensor groups = call.optional("key_groups", groups_, kIndex, "B M|M");
  if (!groups) return groups;
  call.check_extents("groups", {call.dim('B') + 1, call.dim('H') + 1, call.set_count("groups", 'C', count)});
  call.check_index("key_groups", groups, call.dim('C'), -1);
  return groups;
}

// The groups are those of fold_columns, which follows: its mistakes are found before anything runs.
py::object attention_column_sums(py::handle q_, py::handle k_, py::handle lse_, std::string_view kind,
                                 const py::tuple& numbers, const py::tuple& arrays, py::handle key_bias,
                                 py::handle scale, py::handle weight_, py::handle groups_, py::handle count) {
  Call call("attention_column_sums");
  const HeadArgs heads = take_heads(call, q_, k_);
  const Tensor lse = take_lse(call, lse_, heads.q.dtype);
  const attention::Policy policy = take_policy(call, kind, numbers, arrays);
  const attention::KeyBias bias = take_key_bias(call, key_bias);
  const double scale_value = scale_of(call, scale);
  const Tensor weight = call.optional_dense("query_weight", weight_, kF32, "B N|N");
  take_groups(call, groups_, count);
  const Tensor out = call.out("out", py::none(), DType::f32, "B H M");
  TK_RUN(call, attention, attention_column_sums,
         attention::AttentionColumnSumsArgs{head_rows(heads.q), head_rows(heads.k), bias, lse.data, weight.as<float>(),
                                            weight && weight.ndim == 2 ? weight.stride(0) : 0, out.as<float>(), policy,
                                            heads.shape, heads.q.dtype, scale_value});
  return call.results();
}

py::object fold_columns(py::handle sums_, bool over_heads, py::handle groups_, py::handle count) {
  Call call("attention_column_sums");
  const Tensor sums = call.dense("sums", sums_, kF32, "B H M");
  const Tensor groups = take_groups(call, groups_, count);
  const char* shape = over_heads ? (groups ? "B C" : "B M") : (groups ? "B H C" : "B H M");
  const Tensor out = call.out("out", py::none(), DType::f32, shape);
  TK_RUN(call, attention, fold_columns,
         attention::FoldColumnsArgs{sums.as<float>(), groups.as<int64_t>(),
                                    groups && groups.ndim == 2 ? groups.stride(0) : 0, out.as<float>(), call.dim('B'),
                                    call.dim('H'), call.dim('M'), groups ? call.dim('C') : -1, over_heads});
  return call.results();
}

}  // namespace

void bind_attention_map(py::module_& m) {
  m.def("attention_rows", &attention_rows);
  m.def("attention_column_sums", &attention_column_sums);
  m.def("fold_columns", &fold_columns);
}

}  // namespace tk::bind
