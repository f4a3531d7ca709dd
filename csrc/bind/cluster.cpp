// SPDX-License-Identifier: Apache-2.0
// Family cluster: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {

void bind_cluster(py::module_&) {}

}  // namespace tk::bind
