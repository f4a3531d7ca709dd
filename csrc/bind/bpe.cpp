// SPDX-License-Identifier: Apache-2.0
// Family bpe: its ops are bound in files by what they do.
#include "bind/families.h"

namespace tk::bind {

void bind_bpe(py::module_& m) {
  bind_bpe_added(m);
  bind_bpe_split(m);
  bind_bpe_vocab(m);
  bind_bpe_encode(m);
  bind_bpe_train(m);
  bind_bpe_count(m);
  bind_bpe_device(m);
  bind_bpe_lattice(m);
  bind_bpe_pieces(m);
}

}  // namespace tk::bind
