// SPDX-License-Identifier: Apache-2.0
// The functions that -fsanitize=thread,alignment,bounds,... makes the compiler call from kernels: before every load and
// store, and where an access is misaligned or an index leaves its array. We define them ourselves and link without the
// sanitizers' runtimes; they are hidden, so no other library can bind to them.
#include <cstddef>
#include <cstdint>
#include <string>

#include "simt/banks.h"
#include "simt/executor.h"
#include "simt/race.h"
#include "simt/where.h"

#define TK_HOOK extern "C" __attribute__((visibility("hidden"), used))

TK_HOOK void __tsan_init() {}
TK_HOOK void __tsan_func_entry(void*) {}
TK_HOOK void __tsan_func_exit() {}
TK_HOOK void __tsan_vptr_update(void**, void*) {}
TK_HOOK void __tsan_vptr_read(void**) {}

namespace {

void access(const void* address, size_t bytes, const void* pc, bool write) {
  using namespace tk::simt;
  if (write) {
    race::hook_write(address, bytes, pc);
  } else {
    race::hook_read(address, bytes, pc);
  }
  if (banks::counting) banks::note(address, bytes, pc, write ? banks::Kind::write : banks::Kind::read);
}

}  // namespace

#define TK_ACCESS_HOOK(name, bytes, write) \
  TK_HOOK void __tsan_##name(void* address) { access(address, bytes, __builtin_return_address(0), write); }
#define TK_ACCESS_HOOKS(bytes)                                 \
  TK_ACCESS_HOOK(read##bytes, bytes, false)                    \
  TK_ACCESS_HOOK(write##bytes, bytes, true)                    \
  TK_ACCESS_HOOK(unaligned_read##bytes, bytes, false)          \
  TK_ACCESS_HOOK(unaligned_write##bytes, bytes, true)          \
  TK_ACCESS_HOOK(volatile_read##bytes, bytes, false)           \
  TK_ACCESS_HOOK(volatile_write##bytes, bytes, true)           \
  TK_ACCESS_HOOK(unaligned_volatile_read##bytes, bytes, false) \
  TK_ACCESS_HOOK(unaligned_volatile_write##bytes, bytes, true)
TK_ACCESS_HOOKS(1)
TK_ACCESS_HOOKS(2)
TK_ACCESS_HOOKS(4)
TK_ACCESS_HOOKS(8)
TK_ACCESS_HOOKS(16)

TK_HOOK void __tsan_read_range(void* address, size_t bytes) {
  access(address, bytes, __builtin_return_address(0), false);
}
TK_HOOK void __tsan_write_range(void* address, size_t bytes) {
  access(address, bytes, __builtin_return_address(0), true);
}

// ---- what the compiler itself finds wrong; the layouts are those of GCC's and clang's libubsan
// ------------------------
namespace {

struct Location {
  const char* file;
  uint32_t line, column;
};

struct TypeName {
  uint16_t kind, info;
  char text[1];
};

struct Mismatch {
  Location at;
  const TypeName* type;
  unsigned char log_alignment;
  unsigned char access;
};

struct Index {
  Location at;
  const TypeName* array;
  const TypeName* index;
};

struct Arithmetic {
  Location at;
  const TypeName* type;
};

// Launchers are compiled the same way, but only kernels are judged here.
void report(const Location& at, const std::string& what) {
  if (!tk::simt::machine().running) return;
  tk::simt::fail(what + " at " + tk::simt::repository_path(at.file) + ":" + std::to_string(at.line));
}

}  // namespace

TK_HOOK void __ubsan_handle_type_mismatch_v1(Mismatch* data, uintptr_t address) {
  const size_t alignment = size_t{1} << data->log_alignment;
  report(data->at, std::string("misaligned access to ") + data->type->text + ", which needs an address divisible by " +
                       std::to_string(alignment) + " and has remainder " + std::to_string(address % alignment) + ",");
}

TK_HOOK void __ubsan_handle_out_of_bounds(Index* data, uintptr_t index) {
  report(data->at, "out of bounds: index " + std::to_string(static_cast<intptr_t>(index)) + " of an array of type " +
                       data->array->text);
}

TK_HOOK void __ubsan_handle_divrem_overflow(Arithmetic* data, uintptr_t, uintptr_t) {
  report(data->at, "division by zero or of the smallest integer by -1");
}
