// SPDX-License-Identifier: Apache-2.0
// Family bpe: pair counts and merges of id sequences.
#include <pybind11/pybind11.h>

#include "bind/families.h"

namespace tk::bind {

void bind_bpe_count(py::module_&) {}

}  // namespace tk::bind
