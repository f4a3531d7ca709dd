// SPDX-License-Identifier: Apache-2.0
// Family bpe: tries and unigram segmentation.
#include <pybind11/pybind11.h>

#include "bind/families.h"

namespace tk::bind {

void bind_bpe_lattice(py::module_&) {}

}  // namespace tk::bind
