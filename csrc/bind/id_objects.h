// SPDX-License-Identifier: Apache-2.0
// Lists of ids. Most of the time of such a list would go into making its integers, and most of its memory into keeping
// them; so every small id is made once per process and shared, as Python itself does below 257.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

namespace tk::bind {
namespace py = pybind11;

constexpr int32_t kSharedIds = 1 << 18;  // more than the ids of any vocabulary in wide use; at most 10 MB

// A new reference. The caller holds the GIL; without one threads would race for the table, and there is none.
inline PyObject* id_object(int32_t id) {
#if defined(Py_GIL_DISABLED)
  return PyLong_FromLong(id);
#else
  static const std::unique_ptr<PyObject*[]> shared(new PyObject* [kSharedIds] {});
  if (id < 0 || id >= kSharedIds) return PyLong_FromLong(id);
  PyObject*& object = shared[static_cast<size_t>(id)];
  if (!object) object = PyLong_FromLong(id);
  Py_XINCREF(object);
  return object;
#endif
}

inline py::list id_list(const int32_t* ids, int64_t count) {
  py::list list(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    PyObject* id = id_object(ids[i]);
    if (!id) throw py::error_already_set();
    PyList_SET_ITEM(list.ptr(), i, id);
  }
  return list;
}

}  // namespace tk::bind
