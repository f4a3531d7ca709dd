// SPDX-License-Identifier: Apache-2.0
// The process-wide settings of the executor. Read and changed under machine_mutex.
#pragma once
#include <string>

#include "simt/options.h"

namespace tk::simt {

Options& settings();

// Poison of outputs, workspace and shared memory: NaN and -1, then a finite number, so that a value which was never
// written changes from run to run.
constexpr unsigned char kPoisons[] = {0xFF, 0x4B};

// Prepares the machine for run number `index` of one call.
void configure(const std::string& op, const Schedule& schedule, CopyTiming timing, size_t index);

}  // namespace tk::simt
