// SPDX-License-Identifier: Apache-2.0
#include "bind/allocator.h"

#include <array>
#include <mutex>
#include <string>
#include <vector>

#include "core/error.h"

namespace tk::bind {
namespace {

constexpr const char* kDtypeNames[] = {"float32", "float16", "bfloat16", "float64", "int32", "int64", "uint8", "bool"};
constexpr int kDtypes = 8;

enum class Convention {
  numpy,     // empty(shape, dtype)
  torch,     // new_empty(like, *shape[, dtype=dtype]): torch parses a tuple 400 ns slower, a dtype 300 ns slower
  framework  // allocate(like, shape, dtype name), written in Python
};

struct Framework {
  PyTypeObject* type = nullptr;
  Convention convention = Convention::framework;
  py::object allocate;
  py::object finish;  // none: the array is returned as it is
  std::array<py::object, kDtypes> dtypes;
};

// Grows at most once per array type. Entries are never moved or freed, so that readers need no lock.
constexpr int kMaxFrameworks = 16;
std::array<Framework*, kMaxFrameworks> frameworks{};
std::mutex frameworks_mutex;

const Framework& framework_of(py::handle like) {
  PyTypeObject* type = Py_TYPE(like.ptr());
  for (const Framework* f : frameworks) {
    if (f && f->type == type) return *f;
  }
  throw TypeError(std::string("tokernel: arrays of type ") + type->tp_name + " are not registered");
}

void add_framework(Framework* added) {
  const std::lock_guard lock(frameworks_mutex);
  for (Framework*& slot : frameworks) {
    if (slot && slot->type == added->type) return;
    if (slot) continue;
    slot = added;
    return;
  }
  throw std::length_error("tokernel: too many array types in one process");
}

std::array<py::object, kDtypes> dtype_objects(const py::dict& by_name) {
  std::array<py::object, kDtypes> objects;
  for (int i = 0; i < kDtypes; ++i) {
    if (by_name.contains(kDtypeNames[i])) objects[static_cast<size_t>(i)] = by_name[kDtypeNames[i]];
  }
  return objects;
}

py::tuple shape_tuple(const int64_t* shape, int ndim) {
  py::tuple t(static_cast<size_t>(ndim));
  for (int i = 0; i < ndim; ++i) t[static_cast<size_t>(i)] = py::int_(shape[i]);
  return t;
}

py::object stolen(PyObject* result) {
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

py::object call_torch(const Framework& f, py::handle like, py::handle dtype, const int64_t* shape, int ndim) {
  static PyObject* const keyword = Py_BuildValue("(s)", "dtype");
  std::array<PyObject*, 11> arguments{};
  arguments[0] = like.ptr();
  for (int i = 0; i < ndim; ++i) arguments[static_cast<size_t>(i) + 1] = PyLong_FromLongLong(shape[i]);
  arguments[static_cast<size_t>(ndim) + 1] = dtype.ptr();
  PyObject* result =
      PyObject_Vectorcall(f.allocate.ptr(), arguments.data(), static_cast<size_t>(ndim) + 1, dtype ? keyword : nullptr);
  for (int i = 0; i < ndim; ++i) Py_DECREF(arguments[static_cast<size_t>(i) + 1]);
  return stolen(result);
}

}  // namespace

py::object new_array(py::handle like, DType like_dtype, DType dtype, const int64_t* shape, int ndim) {
  const Framework& f = framework_of(like);
  const auto which = static_cast<size_t>(dtype);
  if (f.convention == Convention::framework) return f.allocate(like, shape_tuple(shape, ndim), kDtypeNames[which]);
  if (!f.dtypes[which]) {
    throw TypeError(std::string(kDtypeNames[which]) + " results cannot be returned as " + f.type->tp_name +
                    ", which has no such dtype: pass float32 or float16");
  }
  if (f.convention == Convention::torch) {
    return call_torch(f, like, dtype == like_dtype ? py::handle() : py::handle(f.dtypes[which]), shape, ndim);
  }
  PyObject* arguments[] = {shape_tuple(shape, ndim).release().ptr(), f.dtypes[which].ptr()};
  PyObject* result = PyObject_Vectorcall(f.allocate.ptr(), arguments, 2, nullptr);
  Py_DECREF(arguments[0]);
  return stolen(result);
}

py::object finish_array(py::handle like, py::object array) {
  const Framework& f = framework_of(like);
  return f.finish ? f.finish(array) : array;
}

void bind_allocator(py::module_& m) {
  m.def("register_numpy", [](py::type type, py::object empty, py::dict dtypes) {
    add_framework(new Framework{reinterpret_cast<PyTypeObject*>(type.release().ptr()),
                                Convention::numpy,
                                std::move(empty),
                                {},
                                dtype_objects(dtypes)});
  });
  m.def("register_torch", [](py::type type, py::object new_empty, py::dict dtypes) {
    add_framework(new Framework{reinterpret_cast<PyTypeObject*>(type.release().ptr()),
                                Convention::torch,
                                std::move(new_empty),
                                {},
                                dtype_objects(dtypes)});
  });
  m.def("register_framework", [](py::type type, py::object allocate, py::object finish) {
    if (finish.is_none()) finish = py::object();
    add_framework(new Framework{reinterpret_cast<PyTypeObject*>(type.release().ptr()),
                                Convention::framework,
                                std::move(allocate),
                                std::move(finish),
                                {}});
  });
}

}  // namespace tk::bind
