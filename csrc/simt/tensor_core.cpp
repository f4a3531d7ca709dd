// SPDX-License-Identifier: Apache-2.0
#include "simt/tensor_core.h"

#include <cstring>

#include "core/dtype.h"
#include "simt/executor.h"
#include "simt/race.h"

namespace tk::simt {
namespace {

struct Pair {
  float low, high;
};

template <class T>
Pair unpack(uint32_t bits) {
  return {to_float(T{static_cast<uint16_t>(bits)}), to_float(T{static_cast<uint16_t>(bits >> 16)})};
}

const MmaOperands& operands_of(const uint64_t* lanes, int lane) {
  return *reinterpret_cast<const MmaOperands*>(lanes[lane]);
}

template <class T>
void multiply(const uint64_t* lanes) {
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaOperands& in = operands_of(lanes, lane);
    const int g = lane / 4;
    const int t = lane % 4 * 2;
    for (int r = 0; r < 4; ++r) {
      const Pair pair = unpack<T>(in.a[r]);
      float* to = &a[g + r % 2 * 8][t + r / 2 * 8];
      to[0] = pair.low;
      to[1] = pair.high;
      d[g + r / 2 * 8][t + r % 2] = in.d[r];
    }
    for (int r = 0; r < 2; ++r) {
      const Pair pair = unpack<T>(in.b[r]);
      b[t + r * 8][g] = pair.low;
      b[t + r * 8 + 1][g] = pair.high;
    }
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* out = operands_of(lanes, lane).d;
    for (int r = 0; r < 4; ++r) out[r] = d[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
  }
}

}  // namespace

void multiply_tile(const uint64_t* lanes, bool bfloat) {
  if (bfloat) {
    multiply<bf16_t>(lanes);
  } else {
    multiply<f16_t>(lanes);
  }
}

void distribute_matrices(const uint64_t* lanes) {
  const auto operands = [&](int lane) -> const MatrixOperands& {
    return *reinterpret_cast<const MatrixOperands*>(lanes[lane]);
  };
  const int matrices = operands(0).matrices;
  const bool transposed = operands(0).transposed;
  for (int i = 0; i < matrices; ++i) {
    uint16_t tile[8][8];
    for (int row = 0; row < 8; ++row) std::memcpy(tile[row], operands(8 * i + row).row, 16);
    for (int lane = 0; lane < 32; ++lane) {
      const int r = lane / 4;
      const int c = lane % 4 * 2;
      const uint32_t low = transposed ? tile[c][r] : tile[r][c];
      const uint32_t high = transposed ? tile[c + 1][r] : tile[r][c + 1];
      operands(lane).registers[i] = low | high << 16;
    }
  }
}

void check_matrix_row(const void* row, Site at, const void* pc) {
  const Machine& m = machine();
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(row) - m.arena);
  if (offset >= kArenaBytes) fail("ldmatrix at " + text_of(at) + " reads outside shared memory");
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix at " + text_of(at) + ": a row is not 16-byte aligned");
  race::note_read(row, 16, pc);
}

}  // namespace tk::simt
