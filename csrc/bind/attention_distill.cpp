// SPDX-License-Identifier: Apache-2.0
// Family attention, a student's map held against a teacher's: checked arguments -> launcher.
#include <cmath>

#include "attention/attention_map_ce.h"
#include "attention/attention_map_ce_backward.h"
#include "bind/attention_policy.h"
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {
namespace {

float side_scale(const Call& call, const char* name, py::handle scale, int64_t width) {
  if (scale.is_none()) return 1.0f / std::sqrt(static_cast<float>(width > 0 ? width : 1));
  const double value = scale.cast<double>();
  if (!std::isfinite(value)) call.fail_value(name, "a finite number", std::to_string(value));
  return static_cast<float>(value);
}

struct Sides {
  Tensor q;
  attention::MapSide student, teacher;
};

// Both sides of a map: the teacher's is given by q_t and k_t, or by its logits.
Sides take_sides(Call& call, py::handle q_s, py::handle k_s, py::handle q_t, py::handle k_t, py::handle logits_,
                 py::handle scale_s, py::handle scale_t) {
  Sides s;
  s.q = call.in("q_s", q_s, kFloat, "B H N D");
  const Tensor k = take_like(call, "k_s", k_s, s.q, "B H M D");
  if (call.dim('D') < 1 || call.dim('D') > 256) {
    call.fail_value("q_s", "a head width from 1 to 256", std::to_string(call.dim('D')));
  }
  s.student = {head_rows(s.q), head_rows(k), call.dim('D'), side_scale(call, "scale", scale_s, call.dim('D'))};
  if (q_t.is_none() != k_t.is_none() || q_t.is_none() == logits_.is_none()) {
    call.fail_value("teacher", "q_t and k_t, or else teacher_logits", "another choice of them");
  }
  if (!logits_.is_none()) {
    const Tensor logits = take_like(call, "teacher_logits", logits_, s.q, "B H N M");
    s.teacher = {head_rows(logits), {}, call.dim('M'), 1.0f};
    return s;
  }
  const Tensor teacher_q = take_like(call, "q_t", q_t, s.q, "B H N E");
  const Tensor teacher_k = take_like(call, "k_t", k_t, s.q, "B H M E");
  if (call.dim('E') < 1) call.fail_value("q_t", "a head width of at least 1", "0");
  s.teacher = {head_rows(teacher_q), head_rows(teacher_k), call.dim('E'),
               side_scale(call, "teacher_scale", scale_t, call.dim('E'))};
  // An array without elements may have no address, but a null pointer would say that there are no columns.
  static constexpr float kNothing = 0.0f;
  if (!s.teacher.columns.data) s.teacher.columns.data = &kNothing;
  return s;
}

py::object attention_map_ce(py::handle q_s, py::handle k_s, py::handle q_t, py::handle k_t, py::handle logits,
                            py::handle scale_s, py::handle scale_t, bool return_lse) {
  Call call("attention_map_ce");
  const Sides s = take_sides(call, q_s, k_s, q_t, k_t, logits, scale_s, scale_t);
  const Tensor loss = call.out("loss", py::none(), DType::f32, "B H N");
  const Tensor lse_s = return_lse ? call.out("lse_s", py::none(), DType::f32, "B H N") : Tensor{};
  const Tensor lse_t = return_lse ? call.out("lse_t", py::none(), DType::f32, "B H N") : Tensor{};
  TK_RUN(call, attention, attention_map_ce,
         attention::AttentionMapCeArgs{s.student, s.teacher, loss.as<float>(), lse_s.as<float>(), lse_t.as<float>(),
                                       s.q.dtype, call.dim('B'), call.dim('H'), call.dim('N'), call.dim('M')});
  return call.results();
}

py::object attention_map_ce_backward(py::handle grad_, py::handle q_s, py::handle k_s, py::handle q_t, py::handle k_t,
                                     py::handle logits, py::handle lse_s_, py::handle lse_t_, py::handle scale_s,
                                     py::handle scale_t) {
  Call call("attention_map_ce_backward");
  const Sides s = take_sides(call, q_s, k_s, q_t, k_t, logits, scale_s, scale_t);
  const Tensor grad = call.dense("grad", grad_, kF32, "B H N");
  const Tensor lse_s = call.dense("lse_s", lse_s_, kF32, "B H N");
  const Tensor lse_t = call.dense("lse_t", lse_t_, kF32, "B H N");
  const Tensor grad_q = call.out("grad_q", py::none(), s.q.dtype, "B H N D");
  const Tensor grad_k = call.out("grad_k", py::none(), s.q.dtype, "B H M D");
  TK_RUN(call, attention, attention_map_ce_backward,
         attention::AttentionMapCeBackwardArgs{s.student, s.teacher, grad.as<float>(), lse_s.as<float>(),
                                               lse_t.as<float>(), grad_q.data, grad_k.data, s.q.dtype, call.dim('B'),
                                               call.dim('H'), call.dim('N'), call.dim('M')});
  return call.results();
}

}  // namespace

void bind_attention_distill(py::module_& m) {
  m.def("attention_map_ce", &attention_map_ce);
  m.def("attention_map_ce_backward", &attention_map_ce_backward);
}

}  // namespace tk::bind
