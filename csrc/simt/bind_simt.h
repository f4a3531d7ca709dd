// SPDX-License-Identifier: Apache-2.0
// The controls of the host executor in the extension `_simt`.
#pragma once
#include <pybind11/pybind11.h>

namespace tk::bind {

void bind_simt(pybind11::module_& m);

}  // namespace tk::bind
