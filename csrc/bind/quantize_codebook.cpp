// SPDX-License-Identifier: Apache-2.0
// Family quantize, how a codebook is trained and used: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_quantize_codebook(py::module_&) {}

}  // namespace tk::bind
