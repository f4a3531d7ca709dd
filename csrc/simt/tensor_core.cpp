// SPDX-License-Identifier: Apache-2.0
#include "simt/tensor_core.h"

#include <cstring>

#include "core/dtype.h"
#include "simt/banks.h"
#include "simt/executor.h"
#include "simt/race.h"

namespace tk::simt {
namespace {

constexpr size_t kRowBytes = 16;

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

namespace {

void note_banks(const MatrixOperands* const* operands) {
  const void* rows[32];
  for (int lane = 0; lane < 32; ++lane) rows[lane] = operands[lane]->row;
  banks::note_matrices(rows, operands[0]->matrices, operands[0]->pc);
}

// The lane that receives elements of a row reads them, whoever named the row.
void note_receivers(const MatrixOperands* const* operands) {
  Machine& m = machine();
  const unsigned running = m.self;
  for (unsigned lane = 0; lane < 32; ++lane) {
    m.self = running / 32 * 32 + lane;
    for (int i = 0; i < operands[0]->matrices; ++i) {
      if (operands[0]->transposed) {
        for (unsigned c = lane % 4 * 2; c < lane % 4 * 2 + 2; ++c) {
          const auto* row = static_cast<const unsigned char*>(operands[8 * i + c]->row);
          race::note_read(row + lane / 8 * 4, 4, operands[lane]->pc);
        }
      } else {
        const auto* row = static_cast<const unsigned char*>(operands[8 * i + lane / 4]->row);
        race::note_read(row + lane % 4 * 4, 4, operands[lane]->pc);
      }
    }
  }
  m.self = running;
}

}  // namespace

void distribute_matrices(const uint64_t* lanes) {
  const MatrixOperands* operands[32];
  for (int lane = 0; lane < 32; ++lane) operands[lane] = reinterpret_cast<const MatrixOperands*>(lanes[lane]);
  note_receivers(operands);
  if (banks::counting) note_banks(operands);
  const bool transposed = operands[0]->transposed;
  for (int i = 0; i < operands[0]->matrices; ++i) {
    uint16_t tile[8][8];
    for (int row = 0; row < 8; ++row) std::memcpy(tile[row], operands[8 * i + row]->row, kRowBytes);
    for (int lane = 0; lane < 32; ++lane) {
      const int r = lane / 4;
      const int c = lane % 4 * 2;
      const uint32_t low = transposed ? tile[c][r] : tile[r][c];
      const uint32_t high = transposed ? tile[c + 1][r] : tile[r][c + 1];
      operands[lane]->registers[i] = low | high << 16;
    }
  }
}

void check_matrix_row(const MatrixOperands& operands, Site at) {
  const Machine& m = machine();
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(operands.row) - m.arena);
  if (offset >= kArenaBytes) fail("ldmatrix at " + text_of(at) + " reads outside shared memory");
  if (offset % kRowBytes) fail("ldmatrix at " + text_of(at) + ": a row is not 16-byte aligned");
  race::note_read(operands.row, kRowBytes, operands.pc);
}

}  // namespace tk::simt
