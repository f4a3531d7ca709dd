// SPDX-License-Identifier: Apache-2.0
// From an address in a kernel to its source line.
#pragma once
#include <cstdint>
#include <string>

namespace tk::simt {

// The part of this extension that is mapped from its file, constants and globals included.
bool in_module(const void* address);
uint32_t module_offset(const void* pc);

// "csrc/merge/gather_rows.cuh:25" where addr2line and the line tables are at hand, else "_simt+0x1234".
std::string source_line(uint32_t offset);

// "gather_rows_kernel<float>" for the offset of a kernel, where addr2line and the symbols are at hand.
std::string kernel_name(uint32_t offset);

// Paths as they are in the repository, whatever the build made of them.
std::string repository_path(const std::string& path);

}  // namespace tk::simt
