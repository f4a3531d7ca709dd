// SPDX-License-Identifier: Apache-2.0
// Family select: gates, which say where a token goes and which parts of a model run.
#include <cfloat>
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "select/threshold_gate.h"
#include "select/threshold_gate_backward.h"
#include "select/topk_gate.h"
#include "select/topk_gate_backward.h"

namespace tk::bind {
namespace {

struct GateShapes {
  const char* choices;
  const char* counts;
  const char* logits;
};

GateShapes gate_shapes(const Tensor& logits) {
  if (logits.ndim == 3) return {"B T K", "B E", "B T E"};
  return {"T K", "E", "T E"};
}

selection::ScoreRows gate_rows(Call& call, const Tensor& logits) {
  const int64_t batch = logits.ndim == 3 ? logits.size(0) : 1;
  const int64_t tokens = call.dim('T');
  const int64_t experts = call.dim('E');
  call.check_extents("logits", {batch, tokens, experts});
  if (experts > selection::kMostExperts) {
    call.fail_value("logits", "of at most 8192 experts", std::to_string(experts));
  }
  if (batch * tokens > INT32_MAX) {
    call.fail_value("logits", "of less than 2^31 rows", std::to_string(batch * tokens));
  }
  return {logits.data,
          nullptr,
          logits.dtype,
          batch * tokens,
          experts,
          {batch, tokens},
          {0, logits.ndim == 3 ? logits.stride(0) : 0, logits.stride(logits.ndim - 2)}};
}

py::object topk_gate(py::handle logits_, py::handle k_, bool normalize, py::handle index_, py::handle weight_,
                     py::handle counts_) {
  Call call("topk_gate");
  const Tensor logits = call.in("logits", logits_, kFloat, "T E|B T E");
  const selection::ScoreRows rows = gate_rows(call, logits);
  const int64_t k = call.set_count("k", 'K', k_);
  if (k > rows.width) call.fail_value("k", "in [0, " + std::to_string(rows.width) + "]", std::to_string(k));
  const GateShapes shapes = gate_shapes(logits);
  const Tensor index = call.out("index", index_, DType::i64, shapes.choices);
  const Tensor weight = call.out("weight", weight_, DType::f32, shapes.choices);
  const Tensor counts = call.out("counts", counts_, DType::i64, shapes.counts);
  TK_RUN(call, selection, topk_gate,
         selection::TopkGateArgs{rows, rows.extent[0], rows.extent[1], index.as<int64_t>(), weight.as<float>(),
                                 counts.as<int64_t>(), k, normalize});
  return call.results();
}

py::object topk_gate_backward(py::handle grad_, py::handle logits_, py::handle index_, bool normalize,
                              py::handle out_) {
  Call call("topk_gate_backward");
  const Tensor logits = call.in("logits", logits_, kFloat, "T E|B T E");
  const selection::ScoreRows rows = gate_rows(call, logits);
  const GateShapes shapes = gate_shapes(logits);
  const Tensor index = call.dense("index", index_, kIndex, shapes.choices);
  const Tensor grad = call.dense("grad", grad_, kF32, shapes.choices);
  const Tensor out = call.out("out", out_, logits.dtype, shapes.logits);
  call.check_index("index", index, rows.width);
  TK_RUN(
      call, selection, topk_gate_backward,
      selection::TopkGateBackwardArgs{rows, grad.as<float>(), index.as<int64_t>(), out.data, call.dim('K'), normalize});
  return call.results();
}

constexpr const char* kItemShapes = "N|A N|A B N|A B C N";
constexpr const char* kItemShape[] = {"", "N", "A N", "A B N", "A B C N"};

int64_t item_count(Call& call, const Tensor& logits) {
  int64_t count = 1;
  for (int i = 0; i < logits.ndim; ++i) {
    call.check_extents("logits", {count, logits.size(i)});
    count *= logits.size(i);
  }
  return count;
}

// A temperature that float32 can hold.
float temperature(Call& call, py::handle tau_) {
  if (!PyFloat_Check(tau_.ptr()) && !PyLong_Check(tau_.ptr())) {
    call.fail_type("tau", "a number", Py_TYPE(tau_.ptr())->tp_name);
  }
  const double tau = PyFloat_AsDouble(tau_.ptr());
  if (PyErr_Occurred()) throw py::error_already_set();
  if (!(tau >= FLT_MIN && tau <= FLT_MAX)) {
    call.fail_value("tau", "a positive number of float32", py::str(tau_));
  }
  return static_cast<float>(tau);
}

py::object threshold_gate(py::handle logits_, py::handle tau_, py::handle noise_, py::handle out_) {
  Call call("threshold_gate");
  const Tensor logits = call.dense("logits", logits_, kFloat, kItemShapes);
  const int64_t count = item_count(call, logits);
  const Tensor noise = call.optional_dense("noise", noise_, kF32, kItemShape[logits.ndim]);
  temperature(call, tau_);
  const Tensor out = call.out("out", out_, logits.dtype, kItemShape[logits.ndim]);
  TK_RUN(call, selection, threshold_gate,
         selection::ThresholdGateArgs{logits.data, noise.as<float>(), out.data, logits.dtype, count});
  return call.results();
}

py::object threshold_gate_backward(py::handle grad_, py::handle logits_, py::handle noise_, py::handle tau_,
                                   py::handle out_) {
  Call call("threshold_gate_backward");
  const Tensor logits = call.dense("logits", logits_, kFloat, kItemShapes);
  const int64_t count = item_count(call, logits);
  const Tensor grad = call.dense("grad", grad_, dtype_bit(logits.dtype), kItemShape[logits.ndim]);
  const Tensor noise = call.dense("noise", noise_, kF32, kItemShape[logits.ndim]);
  const float tau = temperature(call, tau_);
  const Tensor out = call.out("out", out_, logits.dtype, kItemShape[logits.ndim]);
  TK_RUN(call, selection, threshold_gate_backward,
         selection::ThresholdGateBackwardArgs{grad.data, logits.data, noise.as<float>(), out.data, logits.dtype, count,
                                              tau});
  return call.results();
}

}  // namespace

void bind_select_gate(py::module_& m) {
  m.def("topk_gate", &topk_gate);
  m.def("topk_gate_backward", &topk_gate_backward);
  m.def("threshold_gate", &threshold_gate);
  m.def("threshold_gate_backward", &threshold_gate_backward);
}

}  // namespace tk::bind
