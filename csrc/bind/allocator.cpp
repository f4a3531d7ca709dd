// SPDX-License-Identifier: Apache-2.0
#include "bind/allocator.h"

#include <array>
#include <atomic>
#include <memory>
#include <string>

#include "core/error.h"

namespace tk::bind {
namespace {

constexpr const char* kDtypeNames[] = {"float32", "float16", "bfloat16", "float64", "int32",
                                       "int64",   "uint8",   "bool",     "int8"};
constexpr int kDtypes = 9;

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
  bool writable = true;  // see exports_only_writable
  std::atomic<Framework*> next{nullptr};
};

// One entry an array type, in order of registration. Entries are added at the end by compare-and-swap and never moved
// or freed: readers need no lock, and a fork in another thread cannot leave one held.
std::atomic<Framework*> frameworks{nullptr};

const Framework* find_framework(py::handle array) {
  PyTypeObject* type = Py_TYPE(array.ptr());
  const Framework* f = frameworks.load(std::memory_order_acquire);
  while (f && f->type != type) f = f->next.load(std::memory_order_acquire);
  return f;
}

const Framework& framework_of(py::handle like) {
  if (const Framework* f = find_framework(like)) return *f;
  throw TypeError(std::string("tokernel: arrays of type ") + Py_TYPE(like.ptr())->tp_name + " are not registered");
}

void add_framework(std::unique_ptr<Framework> added) {
  std::atomic<Framework*>* end = &frameworks;
  for (Framework* present = nullptr; !end->compare_exchange_strong(present, added.get()); present = nullptr) {
    if (present->type == added->type) return;
    end = &present->next;
  }
  Py_INCREF(reinterpret_cast<PyObject*>(added->type));  // keeps the address from being reused by another type
  static_cast<void>(added.release());
}

std::unique_ptr<Framework> framework(const py::type& type, Convention convention, py::object allocate) {
  auto f = std::make_unique<Framework>();
  f->type = reinterpret_cast<PyTypeObject*>(type.ptr());
  f->convention = convention;
  f->allocate = std::move(allocate);
  return f;
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
  if (ndim == 0) arguments[1] = PyTuple_New(0);  // a scalar has no extent to name
  const int extents = ndim == 0 ? 1 : ndim;
  arguments[static_cast<size_t>(extents) + 1] = dtype.ptr();
  PyObject* result = PyObject_Vectorcall(f.allocate.ptr(), arguments.data(), static_cast<size_t>(extents) + 1,
                                         dtype ? keyword : nullptr);
  for (int i = 0; i < extents; ++i) Py_DECREF(arguments[static_cast<size_t>(i) + 1]);
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

bool exports_only_writable(py::handle array) {
  const Framework* f = find_framework(array);
  return f && f->writable;
}

void bind_allocator(py::module_& m) {
  m.def("register_numpy", [](const py::type& type, py::object empty, const py::dict& dtypes) {
    auto f = framework(type, Convention::numpy, std::move(empty));
    f->dtypes = dtype_objects(dtypes);
    add_framework(std::move(f));
  });
  m.def("register_torch", [](const py::type& type, py::object new_empty, const py::dict& dtypes) {
    auto f = framework(type, Convention::torch, std::move(new_empty));
    f->dtypes = dtype_objects(dtypes);
    add_framework(std::move(f));
  });
  m.def("register_framework", [](const py::type& type, py::object allocate, py::object finish, bool writable) {
    auto f = framework(type, Convention::framework, std::move(allocate));
    if (!finish.is_none()) f->finish = std::move(finish);
    f->writable = writable;
    add_framework(std::move(f));
  });
}

}  // namespace tk::bind
