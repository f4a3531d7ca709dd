// SPDX-License-Identifier: Apache-2.0
#include "cluster/assign.h"

namespace tk::cluster::ref {

void assign(const AssignArgs& a) { quantize::ref::nearest(nearest_args(a)); }

}  // namespace tk::cluster::ref
