// SPDX-License-Identifier: Apache-2.0
// What every extension offers besides its ops: errors as Python knows them, introspection, and allocation hooks.
#include "bind/allocator.h"
#include "bind/call.h"

namespace tk::bind {

void register_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const TypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    }
  });
}

namespace {

py::tuple extents_tuple(const int64_t* extents, int ndim) {
  py::list list;
  for (int i = 0; i < ndim; ++i) list.append(extents[i]);
  return py::tuple(list);
}

// What the binding sees of an array: for debugging interoperability, and for the tests of every DLPack trap.
py::dict describe(py::handle object) {
  TensorArg arg;
  const Imported& imported = arg.import("describe", "x", object);
  static constexpr const char* kRoutes[] = {"exchange", "versioned", "legacy"};
  py::dict d;
  d["shape"] = extents_tuple(imported.view.shape, imported.view.ndim);
  d["strides"] = extents_tuple(imported.view.strides, imported.view.ndim);
  d["dtype"] = dtype_text(imported.raw_dtype);
  d["device"] = py::make_tuple(imported.view.device_type, imported.view.device_id);
  d["route"] = kRoutes[static_cast<int>(imported.route)];
  d["read_only"] = imported.read_only != nullptr;
  d["address"] = reinterpret_cast<uintptr_t>(imported.view.data);
  return d;
}

}  // namespace

void bind_call(py::module_& m) {
  m.def("describe", &describe);
  m.def("set_check_finite", &set_check_finite);
  bind_allocator(m);
}

}  // namespace tk::bind
