// SPDX-License-Identifier: Apache-2.0
// A checked array (B, H, N, D) as kernels take it.
#pragma once
#include "bind/call.h"
#include "core/head_row.h"

namespace tk::bind {

inline HeadRows head_rows(const Tensor& x) { return {x.data, x.stride(0), x.stride(1), x.stride(2)}; }

}  // namespace tk::bind
