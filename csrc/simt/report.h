// SPDX-License-Identifier: Apache-2.0
// What the detector says. Every report ends the launch.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "simt/executor.h"
#include "simt/shadow.h"

namespace tk::simt::race {

// One access on its way through the checks.
struct Access {
  uintptr_t address;
  size_t bytes;
  uint32_t pc;
  bool write;
  bool atomic;
};

std::string text_of(const Access& access);

TK_COLD void report_race(const Access& access, const Accessors& before, bool before_wrote, bool other_block,
                         const char* memory, size_t offset);
TK_COLD void report_copying(const Access& access, const Accessors& copy, const char* memory, size_t offset);
TK_COLD void report_spinning(const Access& access);
TK_COLD void report_input(const Access& access, const std::string& name);
// `offset` of the access from the start of the memory of `bytes` bytes that it misses.
TK_COLD void report_bounds(const Access& access, const std::string& name, size_t bytes, int64_t offset);
TK_COLD void report_array(const Access& access, const SharedArray& array, size_t offset);
// Near no argument at all.
TK_COLD void report_stray(const Access& access);

}  // namespace tk::simt::race
