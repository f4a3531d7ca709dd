// SPDX-License-Identifier: Apache-2.0
// The launchers of attention, one source a dtype: nvcc works on them side by side.
#pragma once
#include "attention/attention.h"

namespace tk::attention::gpu {

void attention_float32(const AttentionArgs& a, int64_t slots, bool wide, void* stream);
void attention_float16(const AttentionArgs& a, int64_t slots, bool wide, void* stream);
void attention_bfloat16(const AttentionArgs& a, int64_t slots, bool wide, void* stream);

// Runs BODY with kWidth, the width that rows have in shared memory.
#define TK_WIDTH_SWITCH(width, ...) \
  if ((width) <= 64) {              \
    constexpr int kWidth = 64;      \
    __VA_ARGS__;                    \
  } else if ((width) <= 128) {      \
    constexpr int kWidth = 128;     \
    __VA_ARGS__;                    \
  } else {                          \
    constexpr int kWidth = 256;     \
    __VA_ARGS__;                    \
  }

}  // namespace tk::attention::gpu
