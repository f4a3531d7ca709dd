// SPDX-License-Identifier: Apache-2.0
// The race detector's side of the executor: it is told about threads, synchronisation and memory, and calls fail().
#pragma once
#include <cstddef>
#include <cstdint>

namespace tk::simt::race {

// ---- time ---------------------------------------------------------------------------------------------------------
void begin_launch();
void end_launch();
void begin_block(uint64_t block);
void enter_thread(unsigned thread);
void order_block();                               // everything before a __syncthreads against everything after
void order_lanes(unsigned warp, uint32_t lanes);  // the same among the lanes of a __syncwarp

// ---- accesses that do not come through the compiler's hooks ---------------------------------------------------------
void note_read(const void* address, size_t bytes);
void begin_copy(void* shared, size_t bytes);  // cp.async: the destination belongs to the copy until it has landed
void end_copy(void* shared, size_t bytes);

// ---- accesses the compiler reports; `pc` is the place in the kernel
// ---------------------------------------------------
void hook_read(const void* address, size_t bytes, const void* pc);
void hook_write(const void* address, size_t bytes, const void* pc);

}  // namespace tk::simt::race
