// SPDX-License-Identifier: Apache-2.0
// Family quantize, sign bits, grids and packed integers: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_quantize_bits(py::module_&) {}

}  // namespace tk::bind
