// SPDX-License-Identifier: Apache-2.0
// Family quantize, residual stacks of codebooks, and what is read from a codebook: checked arguments -> launcher, one
// function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_quantize_residual(py::module_&) {}

}  // namespace tk::bind
