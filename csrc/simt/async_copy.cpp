// SPDX-License-Identifier: Apache-2.0
// cp.async: performed at once or as late as its wait, by the timing of the run.
#include <cstring>

#include "simt/banks.h"
#include "simt/executor.h"
#include "simt/race.h"

namespace tk::simt {
namespace {

void land(const PendingCopy& copy) {
  race::end_copy(copy.shared, kCopyBytes);
  if (machine().timing == CopyTiming::at_issue) return;
  if (copy.valid) {
    std::memcpy(copy.shared, copy.global, kCopyBytes);
  } else {
    std::memset(copy.shared, 0, kCopyBytes);
  }
}

}  // namespace

void copy_async(void* shared, const void* global, bool valid, Site at) {
  Machine& m = machine();
  const void* pc = __builtin_return_address(0);
  ++m.statistics.async_copies;
  const auto offset = static_cast<size_t>(static_cast<unsigned char*>(shared) - m.arena);
  if (offset >= kArenaBytes) fail("cp.async at " + text_of(at) + ": the destination is not in shared memory");
  if (offset % kCopyBytes) fail("cp.async at " + text_of(at) + ": the destination is not 16-byte aligned");
  if (reinterpret_cast<uintptr_t>(global) % kCopyBytes) {
    fail("cp.async at " + text_of(at) + ": the source is not 16-byte aligned");
  }
  if (valid) race::note_read(global, kCopyBytes, pc);
  race::begin_copy(shared, kCopyBytes, pc);
  if (banks::counting) banks::note(shared, kCopyBytes, pc, banks::Kind::copy);
  m.copies[m.self].push_back(PendingCopy{shared, global, valid, m.copy_group[m.self]});
  if (m.timing != CopyTiming::at_issue) return;
  if (valid) {
    std::memcpy(shared, global, kCopyBytes);
  } else {
    std::memset(shared, 0, kCopyBytes);
  }
}

void copy_commit() { ++machine().copy_group[machine().self]; }

void copy_wait(unsigned groups_left) {
  Machine& m = machine();
  std::vector<PendingCopy>& copies = m.copies[m.self];
  size_t left = 0;
  for (const PendingCopy& copy : copies) {
    if (copy.group + groups_left < m.copy_group[m.self]) {
      land(copy);
    } else {
      copies[left++] = copy;
    }
  }
  copies.resize(left);
}

void check_copies_landed(unsigned thread) {
  const size_t count = machine().copies[thread].size();
  if (count) fail(std::to_string(count) + " cp.async copies are still in flight when their thread returns");
}

void reset_copies() {
  Machine& m = machine();
  for (unsigned i = 0; i < m.threads; ++i) {
    m.copies[i].clear();
    m.copy_group[i] = 0;
  }
}

}  // namespace tk::simt
