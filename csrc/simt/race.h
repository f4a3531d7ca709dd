// SPDX-License-Identifier: Apache-2.0
// The race and bounds detector. The executor tells it about synchronisation, the compiler's hooks about every load and
// store of a kernel; what it finds goes to fail().
//
// Time. `epoch` counts block barriers over the whole process: two accesses of one block in different epochs are
// ordered. Inside an epoch, lanes of one warp are ordered by __syncwarp only, other threads not at all. Blocks of one
// launch are never ordered.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace tk::simt::race {

// Whether the runs to come are watched.
void watch(bool on);

// ---- memory that kernels may touch, besides shared memory, their own stack and constants
// ------------------------------
struct Region {
  std::string name;
  const unsigned char* first;
  size_t bytes;
  bool writable;
};
void add_region(Region region);
void clear_regions();

// ---- time ---------------------------------------------------------------------------------------------------------
void begin_launch();
void begin_block();
void order_block();                               // __syncthreads
void order_lanes(unsigned warp, uint32_t lanes);  // __syncwarp

// ---- accesses that do not come through the compiler's hooks
// -----------------------------------------------------------
void note_read(const void* address, size_t bytes, const void* pc);
void begin_copy(const void* shared, size_t bytes, const void* pc);  // until end_copy only the copy may touch the bytes
void end_copy(const void* shared, size_t bytes);

// ---- accesses the compiler reports; `pc` is the place in the kernel
// ---------------------------------------------------
void hook_read(const void* address, size_t bytes, const void* pc);
void hook_write(const void* address, size_t bytes, const void* pc);

}  // namespace tk::simt::race
