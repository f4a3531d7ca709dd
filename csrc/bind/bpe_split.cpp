// SPDX-License-Identifier: Apache-2.0
// Family bpe: pre-tokenizers.
#include <pybind11/pybind11.h>

#include "bind/families.h"

namespace tk::bind {

void bind_bpe_split(py::module_&) {}

}  // namespace tk::bind
