// SPDX-License-Identifier: Apache-2.0
// Family bpe: the vocabulary and its prefix tables.
#include <pybind11/pybind11.h>

#include "bind/families.h"

namespace tk::bind {

void bind_bpe_vocab(py::module_&) {}

}  // namespace tk::bind
