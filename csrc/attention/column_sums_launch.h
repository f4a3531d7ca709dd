// SPDX-License-Identifier: Apache-2.0
// The launchers of attention_column_sums, two sources: nvcc works on them side by side.
#pragma once
#include "attention/attention.h"

namespace tk::attention::gpu {

struct ColumnTarget;

void column_sums_float32(const AttentionArgs& a, const ColumnTarget& t, bool wide, void* stream);
void column_sums_half(const AttentionArgs& a, const ColumnTarget& t, bool wide, void* stream);

}  // namespace tk::attention::gpu
