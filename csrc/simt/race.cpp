// SPDX-License-Identifier: Apache-2.0
#include "simt/race.h"

#include "simt/executor.h"

namespace tk::simt {
namespace race {
void begin_launch() {}
void end_launch() {}
void begin_block(uint64_t) {}
void enter_thread(unsigned) {}
void order_block() {}
void order_lanes(unsigned, uint32_t) {}
void note_read(const void*, size_t) {}
void begin_copy(void*, size_t) {}
void end_copy(void*, size_t) {}
void hook_read(const void*, size_t, const void*) {}
void hook_write(const void*, size_t, const void*) {}
}  // namespace race
void note_atomic(const void*, size_t) { ++machine().statistics.atomics; }
}  // namespace tk::simt
