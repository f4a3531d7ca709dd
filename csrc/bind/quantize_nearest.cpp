// SPDX-License-Identifier: Apache-2.0
// Family quantize, which code is nearest to a row: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_quantize_nearest(py::module_&) {}

}  // namespace tk::bind
