// SPDX-License-Identifier: Apache-2.0
// Family bpe: encoding and decoding.
#include <pybind11/pybind11.h>

#include "bind/families.h"

namespace tk::bind {

void bind_bpe_encode(py::module_&) {}

}  // namespace tk::bind
