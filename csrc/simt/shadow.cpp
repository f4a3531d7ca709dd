// SPDX-License-Identifier: Apache-2.0
#include "simt/shadow.h"

#include <sys/mman.h>

#include <new>

namespace tk::simt::race {
namespace {

Cell* map_cells(size_t count) {
  void* memory =
      mmap(nullptr, count * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<Cell*>(memory);
}

}  // namespace

Shadow::~Shadow() { release(); }

void Shadow::release() {
  if (words_) munmap(words_, count_ * sizeof(Cell));
  if (parts_) munmap(parts_, 4 * count_ * sizeof(Cell));
  words_ = parts_ = nullptr;
  count_ = 0;
}

void Shadow::reserve(size_t words) {
  if (words <= count_) return;
  release();
  const size_t count = words + words / 2 + 4096;
  words_ = map_cells(count);
  count_ = count;
  parts_ = map_cells(4 * count);
}

void Shadow::forget() {
  if (!count_) return;
  madvise(words_, count_ * sizeof(Cell), MADV_DONTNEED);
  madvise(parts_, 4 * count_ * sizeof(Cell), MADV_DONTNEED);
}

}  // namespace tk::simt::race
