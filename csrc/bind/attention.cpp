// SPDX-License-Identifier: Apache-2.0
// Family attention: its ops are bound in a file each, by what they do.
#include "bind/families.h"

namespace tk::bind {

void bind_attention(py::module_& m) {
  bind_attention_core(m);
  bind_attention_backward(m);
  bind_attention_rope(m);
  bind_attention_distill(m);
  bind_attention_map(m);
}

}  // namespace tk::bind
