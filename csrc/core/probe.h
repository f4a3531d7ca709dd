// SPDX-License-Identifier: Apache-2.0
// Probes of the machine, for bench: what a kernel could reach at most. They share the dispatch and the thread pool of
// the ops, so a share of peak compares like with like.
#pragma once
#include "core/op.h"

namespace tk::core {

struct FmaProbeArgs {
  int64_t chunks;      // one for each thread, usually
  int64_t iterations;  // of the inner loop, per chunk
  double* flops;       // out: operations performed, a multiply-add counts as two
  float* sink;         // out: keeps the compiler from removing the work
};

// Independent multiply-adds on registers: as many chains as hide the latency, no memory access.
TK_DECLARE_OP(fma_probe, FmaProbeArgs)

struct CopyProbeArgs {
  const void* from;
  void* to;
  int64_t bytes;
};

// A plain copy of dense memory, cut among the threads.
TK_DECLARE_OP(copy_probe, CopyProbeArgs)

}  // namespace tk::core
