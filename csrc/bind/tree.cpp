// SPDX-License-Identifier: Apache-2.0
// Family tree: what speculative decoding needs.
#include "bind/families.h"

namespace tk::bind {

void bind_tree(py::module_& m) {
  bind_tree_attention(m);
  bind_tree_cache(m);
  bind_tree_head(m);
  bind_tree_merge(m);
  bind_tree_rows(m);
  bind_tree_verify(m);
  bind_tree_draft(m);
}

}  // namespace tk::bind
