// SPDX-License-Identifier: Apache-2.0
// Family bpe: training and pair-count histories.
#include <pybind11/pybind11.h>

#include "bind/families.h"

namespace tk::bind {

void bind_bpe_train(py::module_&) {}

}  // namespace tk::bind
