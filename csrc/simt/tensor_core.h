// SPDX-License-Identifier: Apache-2.0
// What mma and ldmatrix compute, once all 32 lanes have deposited the address of their operands.
#pragma once
#include <cstdint>

#include "simt/machine.h"

namespace tk::simt {

struct MmaOperands {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

struct MatrixOperands {
  uint32_t* registers;
  const void* row;
  int matrices;
  bool transposed;
  const void* pc;  // of the instruction, for reports
};

// `lanes` holds 32 addresses of operands.
void multiply_tile(const uint64_t* lanes, bool bfloat);
void distribute_matrices(const uint64_t* lanes);

// A row is 16 bytes of shared memory, 16-byte aligned.
void check_matrix_row(const MatrixOperands& operands, Site at);

}  // namespace tk::simt
