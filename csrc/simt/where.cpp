// SPDX-License-Identifier: Apache-2.0
#include "simt/where.h"

#include <dlfcn.h>

#include <cstdio>
#include <map>
#include <memory>

// Set by the linker: the first and one past the last byte of this shared object.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start;
extern "C" __attribute__((visibility("hidden"))) const char _end;

namespace tk::simt {
namespace {

std::string module_path() {
  Dl_info info;
  return dladdr(&__ehdr_start, &info) && info.dli_fname ? info.dli_fname : "";
}

std::string read_command(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), &pclose);
  std::string text;
  char buffer[512];
  while (pipe && fgets(buffer, sizeof buffer, pipe.get())) text += buffer;
  return text;
}

// The innermost line that belongs to a kernel and not to the vocabulary it is written in.
std::string kernel_line(const std::string& lines) {
  size_t begin = 0;
  while (begin < lines.size()) {
    const size_t end = lines.find('\n', begin);
    const std::string line = lines.substr(begin, end - begin);
    const bool vocabulary = line.find("simt/device.h") != std::string::npos ||
                            line.find("core/") != std::string::npos || line.find("??") != std::string::npos;
    if (!vocabulary && line.find(".cu") != std::string::npos) return line.substr(0, line.find(" ("));
    begin = end == std::string::npos ? lines.size() : end + 1;
  }
  return "";
}

std::string find_line(uint32_t offset) {
  char place[32];
  std::snprintf(place, sizeof place, "0x%x", offset - 1);  // a return address lies past its call
  const std::string path = module_path();
  if (!path.empty() && path.find('\'') == std::string::npos) {
    const std::string line = kernel_line(read_command("addr2line -i -e '" + path + "' " + place + " 2>/dev/null"));
    if (!line.empty()) return repository_path(line);
  }
  return std::string("_simt+") + place;
}

}  // namespace

bool in_module(const void* address) {
  const auto* byte = static_cast<const char*>(address);
  return byte >= &__ehdr_start && byte < &_end;
}

uint32_t module_offset(const void* pc) { return static_cast<uint32_t>(static_cast<const char*>(pc) - &__ehdr_start); }

std::string repository_path(const std::string& path) {
  const size_t at = path.rfind("csrc/");
  return at == std::string::npos ? path : path.substr(at);
}

std::string source_line(uint32_t offset) {
  static std::map<uint32_t, std::string> known;  // one launch at a time: no lock
  std::string& line = known[offset];
  if (line.empty()) line = find_line(offset);
  return line;
}

}  // namespace tk::simt
