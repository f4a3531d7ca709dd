// SPDX-License-Identifier: Apache-2.0
// Shared memory: one arena, placed anew by every launch and poisoned for every block.
#include <algorithm>
#include <cstring>

#include "simt/executor.h"
#include "simt/race.h"

namespace tk::simt {
namespace {

constexpr size_t kArenaAlign = 1024;

size_t align_up(size_t x, size_t alignment) { return (x + alignment - 1) / alignment * alignment; }

void check_limit(const char* name) {
  const Machine& m = machine();
  const std::string where = *name ? std::string(" with array '") + name + "'" : "";
  if (m.static_bytes > kStaticSharedLimit) {
    fail("static shared memory over the limit" + where + ": " + std::to_string(m.static_bytes) + " bytes, at most " +
         std::to_string(kStaticSharedLimit) + " (use dynamic shared memory)");
  }
  if (m.shared_bytes > kSharedLimit) {
    fail("shared memory over the limit" + where + ": " + std::to_string(m.shared_bytes) + " bytes, at most " +
         std::to_string(kSharedLimit));
  }
}

SharedArray& add_array(const char* name, size_t bytes, size_t alignment) {
  Machine& m = machine();
  const size_t offset = align_up(m.arena_used + kRedZone, alignment);
  m.arena_used = offset + bytes;
  if (m.arena_used + kRedZone > kArenaBytes) fail("too many arrays in shared memory");
  m.arrays.push_back(SharedArray{name, offset, bytes});
  return m.arrays.back();
}

}  // namespace

void reset_shared(size_t dynamic_bytes) {
  Machine& m = machine();
  if (!m.arena) {
    m.arena_memory = std::make_unique_for_overwrite<unsigned char[]>(kArenaBytes + kArenaAlign);
    m.arena =
        reinterpret_cast<unsigned char*>(align_up(reinterpret_cast<uintptr_t>(m.arena_memory.get()), kArenaAlign));
  }
  m.arrays.clear();
  m.arena_used = 0;
  m.static_bytes = 0;
  m.shared_bytes = dynamic_bytes;
  check_limit("");
  add_array("dynamic shared memory", dynamic_bytes, 128);
}

void poison_shared() { std::memset(machine().arena, machine().poison, machine().arena_used); }

void* shared_slot(SharedSlot& slot, size_t bytes, size_t alignment, const char* name) {
  Machine& m = machine();
  if (slot.launch != m.launch) {
    const size_t used = align_up(bytes, 16);
    m.static_bytes += used;
    m.shared_bytes += used;
    check_limit(name);
    slot.launch = m.launch;
    slot.offset = add_array(name, bytes, std::max<size_t>(alignment, 16)).offset;
    std::memset(m.arena + slot.offset, m.poison, bytes);
  }
  return m.arena + slot.offset;
}

void* dynamic_shared() { return machine().arena + machine().arrays.front().offset; }

}  // namespace tk::simt
