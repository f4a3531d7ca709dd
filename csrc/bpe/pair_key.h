// SPDX-License-Identifier: Apache-2.0
// Pairs of neighbouring ids as one number.
#pragma once
#include "core/dtype.h"

namespace tk::bpe {
namespace {

// Left in the upper half, so that numbers are in the order of pairs.
TK_INLINE uint64_t pair_key(int64_t left, int64_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

}  // namespace
}  // namespace tk::bpe
