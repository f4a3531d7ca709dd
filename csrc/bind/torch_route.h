// SPDX-License-Identifier: Apache-2.0
// Decides in a quarter of a microsecond whether a torch call may skip torch's dispatcher.
#pragma once
#include <pybind11/pybind11.h>

namespace tk::bind {

// `set_torch_route(Tensor, Parameter, grad_enabled, dispatch_modes, tracing, transform)` and `torch_route(args)`.
void bind_torch_route(pybind11::module_& m);

}  // namespace tk::bind
