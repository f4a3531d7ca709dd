// SPDX-License-Identifier: Apache-2.0
// Errors a user can cause. The binding turns them into the Python exceptions of the same names.
#pragma once
#include <stdexcept>
#include <string>

namespace tk {

struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace tk
