// SPDX-License-Identifier: Apache-2.0
// Family cluster: its ops are bound in files by what they do.
#include "bind/families.h"

namespace tk::bind {

void bind_cluster(py::module_& m) {
  bind_cluster_kmeans(m);
  bind_cluster_order(m);
}

}  // namespace tk::bind
