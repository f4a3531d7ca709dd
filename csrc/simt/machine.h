// SPDX-License-Identifier: Apache-2.0
// The boundary between kernel sources, whose memory accesses the compiler reports to us, and the executor, which is
// compiled without that instrumentation. Everything here is defined in an uninstrumented file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <source_location>

#include "simt/types.h"

namespace tk::simt {

using Site = std::source_location;

// ---- launching ----------------------------------------------------------------------------------------------------
// Carries the line of the launch along with the grid.
struct Grid {
  Grid(dim3 blocks_, Site at_ = Site::current()) : blocks(blocks_), at(at_) {}
  Grid(unsigned blocks_, Site at_ = Site::current()) : blocks(blocks_), at(at_) {}
  dim3 blocks;
  Site at;
};

// The kernel with its arguments bound; `object` lives until the launch returns.
struct Body {
  void (*call)(const void* object);
  const void* object;
  size_t bytes;
  const void* kernel;  // for reports
};

// Runs the grid on the calling OS thread. Throws std::runtime_error for everything a kernel may do wrong.
void run_grid(const Grid& grid, dim3 block, size_t dynamic_shared, const Body& body);

// ---- what a kernel may ask and do ----------------------------------------------------------------------------------
// Constant for one thread of one block, so that the compiler may keep the answer across a switch.
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_extent();
__attribute__((const)) dim3 grid_extent();

void barrier(Site at);

enum class Shuffle : uint8_t { index, up, down, exchange };
void sync_warp(uint32_t mask, Site at);
uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t bits, int operand, int width, Site at);
uint32_t vote(uint32_t mask, bool predicate, Site at);

// A static array in shared memory: a slot of the block's arena, placed when the launch first reaches it.
struct SharedSlot {
  uint64_t launch = 0;
  size_t offset = 0;
};
void* shared_slot(SharedSlot& slot, size_t bytes, size_t alignment, const char* name);
void* dynamic_shared();

void copy_async(void* shared, const void* global, bool valid, Site at);
void copy_commit();
void copy_wait(unsigned groups_left);

void mma(float* d, const uint32_t* a, const uint32_t* b, bool bfloat, Site at);
void load_matrix(uint32_t* registers, const void* row, int matrices, bool transposed, Site at);

// Reports an atomic access before the caller performs it.
void note_atomic(const void* address, size_t bytes);

}  // namespace tk::simt
