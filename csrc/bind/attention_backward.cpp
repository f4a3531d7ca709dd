// SPDX-License-Identifier: Apache-2.0
// Family attention, gradients: checked arguments -> launcher.
#include "attention/attention_backward.h"

#include "bind/attention_policy.h"
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {
namespace {

py::object attention_backward_(py::handle grad_, py::handle q_, py::handle k_, py::handle v_, py::handle o_,
                               py::handle lse_, py::handle grad_lse_, std::string_view kind, const py::tuple& numbers,
                               const py::tuple& arrays, py::handle key_bias, py::handle scale) {
  Call call("attention_backward");
  const HeadArgs heads = take_heads(call, q_, k_);
  const DType dtype = heads.q.dtype;
  const DType lse_dtype = dtype == DType::f64 ? DType::f64 : DType::f32;
  const Tensor v = take_like(call, "v", v_, heads.q, "B G M D");
  const Tensor grad = take_like(call, "grad", grad_, heads.q, "B H N D");
  const Tensor o = take_like(call, "o", o_, heads.q, "B H N D");
  const Tensor lse = call.dense("lse", lse_, dtype_bit(lse_dtype), "B H N");
  const Tensor grad_lse = call.optional_dense("grad_lse", grad_lse_, dtype_bit(lse_dtype), "B H N");
  call.check_finite("v", v);
  call.check_finite("grad", grad);
  const attention::Policy policy = take_policy(call, kind, numbers, arrays);
  const attention::KeyBias bias = take_key_bias(call, key_bias);
  const double scale_value = scale_of(call, scale);
  const Tensor grad_q = call.out("grad_q", py::none(), dtype, "B H N D");
  const Tensor grad_k = call.out("grad_k", py::none(), dtype, "B G M D");
  const Tensor grad_v = call.out("grad_v", py::none(), dtype, "B G M D");
  const Tensor grad_bias = key_bias.is_none() ? Tensor{} : call.out("grad_key_bias", py::none(), DType::f32, "U V M");
  const int64_t bias_batch = grad_bias ? call.dim('U') : 1;
  const int64_t bias_heads = grad_bias ? call.dim('V') : 1;
  TK_RUN(call, attention, attention_backward,
         attention::AttentionBackwardArgs{head_rows(grad), head_rows(heads.q), head_rows(heads.k), head_rows(v),
                                          head_rows(o), lse.data, grad_lse.data, bias, grad_q.data, grad_k.data,
                                          grad_v.data, grad_bias.as<float>(), bias_batch, bias_heads, policy,
                                          heads.shape, dtype, scale_value});
  return call.results();
}

}  // namespace

void bind_attention_backward(py::module_& m) { m.def("attention_backward", &attention_backward_); }

}  // namespace tk::bind
