// SPDX-License-Identifier: Apache-2.0
#include "core/scratch.h"

#include <new>

namespace tk {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kArena = size_t{1} << 20;  // one L2 cache; larger blocks come from the heap

void* allocate(size_t bytes) { return ::operator new(bytes, std::align_val_t(kAlign)); }
void release(void* p) { ::operator delete(p, std::align_val_t(kAlign)); }

struct Arena {
  char* base = nullptr;
  size_t used = 0;
  ~Arena() { release(base); }
};
thread_local Arena arena;

size_t rounded(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

ScratchBytes::ScratchBytes(size_t bytes) : data_(nullptr), owned_(nullptr), bytes_(rounded(bytes)) {
  if (bytes_ > kArena - arena.used) {
    data_ = owned_ = allocate(bytes_);
    return;
  }
  if (!arena.base) arena.base = static_cast<char*>(allocate(kArena));
  data_ = arena.base + arena.used;
  arena.used += bytes_;
}

ScratchBytes::~ScratchBytes() {
  if (owned_) {
    release(owned_);
  } else {
    arena.used -= bytes_;
  }
}

}  // namespace tk
