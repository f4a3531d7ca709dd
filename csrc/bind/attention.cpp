// SPDX-License-Identifier: Apache-2.0
// Family attention: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_attention(py::module_&) {}

}  // namespace tk::bind
