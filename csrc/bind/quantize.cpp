// SPDX-License-Identifier: Apache-2.0
// Family quantize: its ops are bound in files by what they do.
#include "bind/families.h"

namespace tk::bind {

void bind_quantize(py::module_& m) {
  bind_quantize_nearest(m);
  bind_quantize_residual(m);
  bind_quantize_bits(m);
  bind_quantize_entropy(m);
  bind_quantize_product(m);
  bind_quantize_codebook(m);
}

}  // namespace tk::bind
