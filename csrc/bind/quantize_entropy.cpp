// SPDX-License-Identifier: Apache-2.0
// Family quantize, how evenly codes are used, softly: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_quantize_entropy(py::module_&) {}

}  // namespace tk::bind
