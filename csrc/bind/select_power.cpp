// SPDX-License-Identifier: Apache-2.0
// Family select: mass that flows over an attention map.
#include <cmath>
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "select/power_iterate.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostPowerSteps = INT32_MAX;
constexpr const char* kPowerVector[] = {"", "", "N", "H N", "B H N"};

int64_t power_steps(Call& call, py::handle iters_) {
  const int64_t iters = call.integer("iters", iters_, 0);
  if (iters > kMostPowerSteps) call.fail_value("iters", "below 2^31", std::to_string(iters));
  return iters;
}

// Negative where the caller gave None.
float power_eps(Call& call, py::handle eps_) {
  if (eps_.is_none()) return -1.0f;
  if (!PyFloat_Check(eps_.ptr()) && !PyLong_Check(eps_.ptr())) {
    call.fail_type("eps", "a number or None", Py_TYPE(eps_.ptr())->tp_name);
  }
  const double eps = PyFloat_AsDouble(eps_.ptr());
  if (PyErr_Occurred()) throw py::error_already_set();
  if (!(eps >= 0)) call.fail_value("eps", "a number of at least 0", py::str(eps_));
  return static_cast<float>(eps);
}

py::object power_iterate(py::handle map_, py::handle start_, py::handle iters_, py::handle eps_, py::handle out_) {
  Call call("power_iterate");
  const Tensor map = call.in("A", map_, kFloat, "N N|H N N|B H N N");
  const Tensor start = call.optional_dense("s0", start_, kF32, kPowerVector[map.ndim]);
  selection::PowerIterateArgs a{};
  a.tokens = call.dim('N');
  a.heads = map.ndim > 2 ? call.dim('H') : 1;
  a.batch = map.ndim > 3 ? call.dim('B') : 1;
  call.check_extents("A", {a.batch, a.heads, a.tokens, a.tokens});
  if (a.tokens > selection::kMostPowerTokens) call.fail_value("A", "of at most 2^14 tokens", std::to_string(a.tokens));
  if (a.batch * a.heads > INT32_MAX) call.fail_value("A", "of less than 2^31 maps", std::to_string(a.batch * a.heads));
  a.iters = power_steps(call, iters_);
  a.eps = power_eps(call, eps_);
  a.map = map.data;
  a.start = start.as<float>();
  a.dtype = map.dtype;
  a.row_stride = map.stride(map.ndim - 2);
  a.head_stride = map.ndim > 2 ? map.stride(map.ndim - 3) : 0;
  a.batch_stride = map.ndim > 3 ? map.stride(0) : 0;
  const Tensor out = call.out("out", out_, DType::f32, kPowerVector[map.ndim]);
  a.out = out.as<float>();
  TK_RUN(call, selection, power_iterate, a);
  return call.results();
}

}  // namespace

void bind_select_power(py::module_& m) { m.def("power_iterate", &power_iterate); }

}  // namespace tk::bind
