// SPDX-License-Identifier: Apache-2.0
// New arrays in the caller's own framework: the extension owns no array type and allocates no array memory itself.
#pragma once
#include <pybind11/pybind11.h>

#include "core/dtype.h"

namespace tk::bind {
namespace py = pybind11;

// A new, uninitialised array beside `like`, whose dtype is `like_dtype`. Throws TypeError when the framework has no
// such dtype.
py::object new_array(py::handle like, DType like_dtype, DType dtype, const int64_t* shape, int ndim);

// What the caller gets for an array made by new_array: JAX takes a filled NumPy array over as its own.
py::object finish_array(py::handle like, py::object array);

// True for a type whose read-only arrays, if it has any, do not come as a capsule that cannot say so.
bool exports_only_writable(py::handle array);

// `register_numpy(type, empty, dtypes)`, `register_torch(type, new_empty, dtypes)`,
// `register_framework(type, allocate, finish, writable)`.
void bind_allocator(py::module_& m);

}  // namespace tk::bind
