// SPDX-License-Identifier: Apache-2.0
// The process-wide settings of the executor. Read and changed under machine_mutex.
#pragma once
#include <string>

#include "simt/options.h"

namespace tk::simt {

Options& settings();

// Prepares the machine for one run.
void configure(const std::string& op, const Options& options, const Schedule& schedule, CopyTiming timing,
               unsigned char poison);

}  // namespace tk::simt
