// SPDX-License-Identifier: Apache-2.0
#include "bind/torch_route.h"

#include <atomic>

namespace tk::bind {
namespace {

namespace py = pybind11;

enum Way : int { kDispatcher = 0, kKernel = 1, kGradient = 2, kTransform = 3 };

struct Torch {
  PyTypeObject* tensor = nullptr;
  PyTypeObject* parameter = nullptr;
  PyObject* grad_enabled = nullptr;
  PyObject* dispatch_modes = nullptr;
  PyObject* tracing = nullptr;
  PyObject* transform = nullptr;
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
};

// Set once, when tokernel.ops is imported; never freed, because calls may come until the interpreter is gone.
std::atomic<const Torch*> torch_names{nullptr};

py::object call(PyObject* function) {
  PyObject* result = PyObject_CallNoArgs(function);
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

bool requires_grad(const Torch& torch, PyObject* tensor) {
  PyObject* answer = PyObject_GetAttr(tensor, torch.requires_grad);
  if (!answer) throw py::error_already_set();
  Py_DECREF(answer);
  return answer == Py_True;
}

int torch_route(const py::tuple& args) {
  const Torch* t = torch_names.load(std::memory_order_acquire);
  if (!t) return kDispatcher;
  if (PyLong_AsLong(call(t->dispatch_modes).ptr()) != 0) return kDispatcher;
  if (!call(t->tracing).is_none()) return kDispatcher;
  if (!call(t->transform).is_none()) return kTransform;
  const bool grad = call(t->grad_enabled).is(py::bool_(true));
  int route = kKernel;
  for (const py::handle& arg : args) {
    PyTypeObject* type = Py_TYPE(arg.ptr());
    if (type == t->tensor || type == t->parameter) {
      if (grad && requires_grad(*t, arg.ptr())) route = kGradient;
    } else if (PyType_IsSubtype(type, t->tensor)) {
      return kDispatcher;
    }
  }
  return route;
}

void set_torch_route(py::type tensor, py::type parameter, py::object grad_enabled, py::object dispatch_modes,
                     py::object tracing, py::object transform) {
  if (torch_names.load()) return;
  auto* t = new Torch;
  t->tensor = reinterpret_cast<PyTypeObject*>(tensor.release().ptr());
  t->parameter = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
  t->grad_enabled = grad_enabled.release().ptr();
  t->dispatch_modes = dispatch_modes.release().ptr();
  t->tracing = tracing.release().ptr();
  t->transform = transform.release().ptr();
  torch_names.store(t, std::memory_order_release);
}

}  // namespace

void bind_torch_route(py::module_& m) {
  m.def("set_torch_route", &set_torch_route);
  m.def("torch_route", &torch_route);
}

}  // namespace tk::bind
