// SPDX-License-Identifier: Apache-2.0
// Family merge: its ops are bound in four files, by what they do.
#include "bind/families.h"

namespace tk::bind {

void bind_merge(py::module_& m) {
  bind_merge_rows(m);
  bind_merge_segments(m);
  bind_merge_match(m);
  bind_merge_soft(m);
}

}  // namespace tk::bind
