// SPDX-License-Identifier: Apache-2.0
// Family quantize, product quantization and its scan by tables: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_quantize_product(py::module_&) {}

}  // namespace tk::bind
