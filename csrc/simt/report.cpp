// SPDX-License-Identifier: Apache-2.0
#include "simt/report.h"

#include "simt/where.h"

namespace tk::simt::race {

std::string text_of(const Access& access) {
  return std::string(access.atomic  ? "atomic update"
                     : access.write ? "write"
                                    : "read") +
         " of " + std::to_string(access.bytes) + " bytes";
}

void report_race(const Access& access, const Accessors& before, bool before_wrote, bool other_block, const char* memory,
                 size_t offset) {
  ++machine().statistics.races;
  const std::string kind = before.atomic ? "an atomic update" : before_wrote ? "a write" : "a read";
  const std::string who = other_block ? std::string("another block") : simt::text_of(unsigned{before.thread});
  fail("race on " + std::string(memory) + ", byte " + std::to_string(offset) + ": " + text_of(access) + " at " +
       source_line(access.pc) + " against " + kind + " by " + who + " at " + source_line(before.pc) +
       (other_block ? ", and blocks of one launch are not ordered" : ", with no barrier between"));
}

void report_bounds(const Access& access, const std::string& name, size_t bytes, int64_t offset) {
  const std::string where =
      offset < 0 ? std::to_string(-offset) + " bytes before the start"
                 : std::to_string(offset + static_cast<int64_t>(access.bytes) - static_cast<int64_t>(bytes)) +
                       " bytes past the end";
  fail("out of bounds: " + text_of(access) + " at " + source_line(access.pc) + " reaches " + where + " of " + name +
       " (" + std::to_string(bytes) + " bytes)");
}

void report_copying(const Access& access, const Accessors& copy, const char* memory, size_t offset) {
  fail(text_of(access) + " at " + source_line(access.pc) + " of " + memory + ", byte " + std::to_string(offset) +
       ", while a cp.async to it is under way (issued at " + source_line(copy.pc) + ")");
}

// Threads take turns at synchronisation only, so one that waits for another in a loop would wait for ever.
void report_spinning(const Access& access) {
  fail("no progress: " + std::to_string(machine().access_limit) + " accesses without synchronisation, the last a " +
       text_of(access) + " at " + source_line(access.pc));
}

void report_input(const Access& access, const std::string& name) {
  fail(text_of(access) + " at " + source_line(access.pc) + " to '" + name + "', which is an input");
}

void report_array(const Access& access, const SharedArray& array, size_t offset) {
  report_bounds(access, std::string("shared array '") + array.name + "'", array.bytes,
                static_cast<int64_t>(offset) - static_cast<int64_t>(array.offset));
}

void report_stray(const Access& access) {
  const int owner = machine().stacks.owner(reinterpret_cast<const void*>(access.address));
  if (owner >= 0) {
    fail(text_of(access) + " at " + source_line(access.pc) + " in the local memory of thread " + std::to_string(owner));
  }
  fail("out of bounds: " + text_of(access) + " at " + source_line(access.pc) + " of memory that is no argument");
}

}  // namespace tk::simt::race
