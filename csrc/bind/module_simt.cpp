// SPDX-License-Identifier: Apache-2.0
// The extension `_simt`: the CUDA kernels and their launchers on host memory, run by the host executor.
#include <pybind11/pybind11.h>

#include "bind/call.h"
#include "bind/families.h"
#include "simt/bind_simt.h"

PYBIND11_MODULE(_simt, m) {
  m.doc() = "tokernel CUDA kernels on the host executor (tests and bench)";
  tk::bind::register_errors(m);
  tk::bind::bind_simt(m);
  tk::bind::bind_call(m);
  tk::bind::bind_merge(m);
  tk::bind::bind_attention(m);
  tk::bind::bind_cluster(m);
  tk::bind::bind_select(m);
  tk::bind::bind_tree(m);
  tk::bind::bind_quantize(m);
  tk::bind::bind_bpe(m);
}
