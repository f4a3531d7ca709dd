// SPDX-License-Identifier: Apache-2.0
#include "simt/where.h"

#include <cxxabi.h>
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
                            line.find("core/gpu.cuh") != std::string::npos || line.find("??") != std::string::npos;
    if (!vocabulary && line.find(".cu") != std::string::npos) return line.substr(0, line.find(" ("));
    begin = end == std::string::npos ? lines.size() : end + 1;
  }
  return "";
}

std::string place_of(uint32_t offset) {
  char place[32];
  std::snprintf(place, sizeof place, "0x%x", offset);
  return place;
}

std::string ask_addr2line(const char* options, uint32_t offset) {
  const std::string path = module_path();
  if (path.empty() || path.find('\'') != std::string::npos) return "";
  return read_command(std::string("addr2line ") + options + " -e '" + path + "' " + place_of(offset) + " 2>/dev/null");
}

std::string find_line(uint32_t offset) {
  const uint32_t call = offset - 1;  // a return address lies past its call
  const std::string line = kernel_line(ask_addr2line("-i", call));
  return line.empty() ? "_simt+" + place_of(call) : repository_path(line);
}

// Without return type, namespaces and parameters.
std::string short_name(const std::string& symbol) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status),
                                                    &std::free);
  std::string name = text ? text.get() : symbol;
  for (size_t at; (at = name.find("(anonymous namespace)::")) != std::string::npos;) name.erase(at, 23);
  name = name.substr(0, name.rfind('>') == std::string::npos ? name.find('(') : name.find(">("));
  if (name.find('<') != std::string::npos) name += '>';
  const size_t arguments = std::min(name.find('<'), name.size());
  const size_t start = name.find_last_of(": ", arguments);
  return start == std::string::npos ? name : name.substr(start + 1);
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

std::string kernel_name(uint32_t offset) {
  static std::map<uint32_t, std::string> known;
  std::string& name = known[offset];
  if (!name.empty()) return name;
  const std::string answer = ask_addr2line("-f", offset);
  const std::string symbol = answer.substr(0, answer.find('\n'));
  name = symbol.empty() || symbol == "??" ? "_simt+" + place_of(offset) : short_name(symbol);
  return name;
}

std::string source_line(uint32_t offset) {
  static std::map<uint32_t, std::string> known;  // one launch at a time: no lock
  std::string& line = known[offset];
  if (line.empty()) line = find_line(offset);
  return line;
}

}  // namespace tk::simt
