// SPDX-License-Identifier: Apache-2.0
// Bank conflicts: what a warp's accesses to shared memory cost beyond one wavefront each.
//
// Shared memory has 32 banks of 4 bytes. A warp of 4-byte accesses is served at once, one of 8 bytes in two halves, one
// of 16 bytes in four quarters; each such part takes as many wavefronts as one bank has different words to serve. A
// word that several lanes ask for counts once, except for atomics, which take turns.
//
// Lanes run one after another here, so their accesses are put together afterwards: the n-th time that lanes of one warp
// pass one place of the kernel since the whole warp last met (at a barrier or a collective of all its lanes) counts as
// one instruction.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tk::simt::banks {

enum class Kind : uint8_t { read, write, atomic, copy, matrix };

// What the warps of one kernel did at one place.
struct Place {
  uint32_t kernel = 0;  // offsets in the module: of the kernel, of the instruction
  uint32_t pc = 0;
  Kind kind = Kind::read;
  size_t bytes = 0;           // of one lane
  uint64_t instructions = 0;  // of a warp
  uint64_t wavefronts = 0;
  uint64_t least = 0;  // wavefronts without any conflict
  unsigned worst = 0;  // wavefronts of one part: 1 without conflict, 32 at most
};

extern bool counting;
void count(bool on);  // from the next launch on

// An access of the running thread; whatever is not in shared memory is passed over.
void note(const void* address, size_t bytes, const void* pc, Kind kind);
// ldmatrix of a whole warp: eight rows of 16 bytes a matrix.
void note_matrices(const void* const* rows, int matrices, const void* pc);

void begin_launch();              // forgets what a launch that failed has left
void finish_warp(unsigned warp);  // all its lanes met
void finish_block();              // all threads of the block met, or it ended

std::vector<Place> places();
void reset();

}  // namespace tk::simt::banks
