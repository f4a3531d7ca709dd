// SPDX-License-Identifier: Apache-2.0
// The extension `_C`: every op on the CPU, and the controls of dispatch and threads.
#include <pybind11/pybind11.h>

#include <cstring>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/torch_route.h"
#include "core/dispatch.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/probe.h"

namespace tk::bind {
namespace {

Level level_from_name(const char* name) {
  for (int i = 0; i < static_cast<int>(Level::count); ++i) {
    if (std::strcmp(level_name(static_cast<Level>(i)), name) == 0) return static_cast<Level>(i);
  }
  if (std::strcmp(name, "none") == 0) return Level::count;
  throw ValueError(std::string("backend: expected one of ref, v2, v3, v4, neon, got '") + name + "'");
}

py::list levels(bool (*test)(Level)) {
  py::list names;
  for (int i = 0; i < static_cast<int>(Level::count); ++i) {
    if (test(static_cast<Level>(i))) names.append(level_name(static_cast<Level>(i)));
  }
  return names;
}

void bind_dispatch(py::module_& m) {
  m.def("compiled_levels", [] { return levels(&level_compiled); });
  m.def("usable_levels", [] { return levels(&level_usable); });
  m.def("current_level", [] { return level_name(current_level()); });
  m.def("last_level", [] { return level_name(last_level()); });
  m.def("force_thread_level", [](const char* name) { return level_name(force_thread_level(level_from_name(name))); });
  m.def("force_process_level", [](const char* name) { return level_name(force_process_level(level_from_name(name))); });
  m.def("forget_last_level", [] { note_last_level(Level::count); });
  m.def("set_framework_threads", &set_framework_threads);
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);
}

// Register-only multiply-adds on every thread; returns the operations performed.
double fma_probe(int64_t iterations) {
  double flops = 0.0;
  float sink = 0.0f;
  Call call("fma_probe");
  TK_RUN(call, core, fma_probe, core::FmaProbeArgs{num_threads(), iterations, &flops, &sink});
  return flops;
}

void copy_probe(py::handle from_, py::handle to_) {
  Call call("copy_probe");
  const Tensor from = call.in("from", from_, DType::u8, "N");
  const Tensor to = call.out("to", to_, DType::u8, "N");
  TK_RUN(call, core, copy_probe, core::CopyProbeArgs{from.data, to.data, call.dim('N')});
}

void bind_probes(py::module_& m) {
  m.def("fma_probe", &fma_probe);
  m.def("copy_probe", &copy_probe);
}

}  // namespace
}  // namespace tk::bind

PYBIND11_MODULE(_C, m, pybind11::mod_gil_not_used()) {
  m.doc() = "tokernel CPU kernels; use tokernel.kernels and tokernel.ops instead";
  tk::bind::register_errors(m);
  tk::bind::bind_dispatch(m);
  tk::bind::bind_probes(m);
  tk::bind::bind_call(m);
  tk::bind::bind_torch_route(m);
  tk::bind::bind_merge(m);
  tk::bind::bind_attention(m);
  tk::bind::bind_cluster(m);
  tk::bind::bind_select(m);
  tk::bind::bind_tree(m);
  tk::bind::bind_quantize(m);
  tk::bind::bind_bpe(m);
}
