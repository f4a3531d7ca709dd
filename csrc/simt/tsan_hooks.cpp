// SPDX-License-Identifier: Apache-2.0
// The functions that -fsanitize=thread makes the compiler call before every load and store of a kernel. We define them
// ourselves and link without the sanitizer's runtime; they are hidden, so no other library can bind to them.
#include <cstddef>

#include "simt/race.h"

#define TK_HOOK extern "C" __attribute__((visibility("hidden"), used))

TK_HOOK void __tsan_init() {}
TK_HOOK void __tsan_func_entry(void*) {}
TK_HOOK void __tsan_func_exit() {}
TK_HOOK void __tsan_vptr_update(void**, void*) {}
TK_HOOK void __tsan_vptr_read(void**) {}

#define TK_ACCESS_HOOK(name, kind, bytes) \
  TK_HOOK void __tsan_##name(void* address) { tk::simt::race::kind(address, bytes, __builtin_return_address(0)); }
#define TK_ACCESS_HOOKS(bytes)                                     \
  TK_ACCESS_HOOK(read##bytes, hook_read, bytes)                    \
  TK_ACCESS_HOOK(write##bytes, hook_write, bytes)                  \
  TK_ACCESS_HOOK(unaligned_read##bytes, hook_read, bytes)          \
  TK_ACCESS_HOOK(unaligned_write##bytes, hook_write, bytes)        \
  TK_ACCESS_HOOK(volatile_read##bytes, hook_read, bytes)           \
  TK_ACCESS_HOOK(volatile_write##bytes, hook_write, bytes)         \
  TK_ACCESS_HOOK(unaligned_volatile_read##bytes, hook_read, bytes) \
  TK_ACCESS_HOOK(unaligned_volatile_write##bytes, hook_write, bytes)
TK_ACCESS_HOOKS(1)
TK_ACCESS_HOOKS(2)
TK_ACCESS_HOOKS(4)
TK_ACCESS_HOOKS(8)
TK_ACCESS_HOOKS(16)

TK_HOOK void __tsan_read_range(void* address, size_t bytes) {
  tk::simt::race::hook_read(address, bytes, __builtin_return_address(0));
}
TK_HOOK void __tsan_write_range(void* address, size_t bytes) {
  tk::simt::race::hook_write(address, bytes, __builtin_return_address(0));
}
