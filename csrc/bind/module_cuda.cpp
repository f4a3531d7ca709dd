// SPDX-License-Identifier: Apache-2.0
// The extension `_cuda`: the same ops on CUDA arrays. Imports without a driver; a call then raises one clear error.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <string>

#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {
namespace {

py::dict describe_device(int id) {
  cudaDeviceProp properties;
  py::dict device;
  if (cudaGetDeviceProperties(&properties, id) != cudaSuccess) return device;
  device["name"] = properties.name;
  device["compute_capability"] = std::to_string(properties.major) + "." + std::to_string(properties.minor);
  device["memory_bytes"] = properties.totalGlobalMem;
  return device;
}

// Empty, with the reason, when no driver or no GPU is present.
py::tuple devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  py::list found;
  if (status != cudaSuccess) return py::make_tuple(found, cudaGetErrorString(status));
  for (int i = 0; i < count; ++i) found.append(describe_device(i));
  return py::make_tuple(found, count ? "" : "no CUDA device");
}

}  // namespace
}  // namespace tk::bind

PYBIND11_MODULE(_cuda, m, pybind11::mod_gil_not_used()) {
  m.doc() = "tokernel CUDA kernels; use tokernel.kernels and tokernel.ops instead";
  tk::bind::register_errors(m);
  m.def("devices", &tk::bind::devices);
  tk::bind::bind_call(m);
  tk::bind::bind_merge(m);
  tk::bind::bind_attention(m);
  tk::bind::bind_cluster(m);
  tk::bind::bind_select(m);
  tk::bind::bind_tree(m);
  tk::bind::bind_quantize(m);
  tk::bind::bind_bpe(m);
}
