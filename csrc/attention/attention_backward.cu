// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "attention/attention_backward.h"

namespace tk::attention::gpu {

size_t attention_backward_workspace(const AttentionBackwardArgs&) { return 0; }

void attention_backward(const AttentionBackwardArgs&, const GpuContext&) {
  throw std::runtime_error("attention_backward: under construction");
}

}  // namespace tk::attention::gpu
