// SPDX-License-Identifier: Apache-2.0
// Shadow memory: who touched a word last. Precise to the byte: a word that is accessed in parts gets four cells.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tk::simt::race {

// A set of threads that made the same kind of access in one epoch. `lanes` belong to the warp of `thread`.
struct Accessors {
  uint32_t epoch = 0;
  uint32_t warps = 0;
  uint32_t lanes = 0;
  uint32_t stamp = 0;  // the warp's count of __syncwarp at the access
  uint32_t pc = 0;     // of the latest, from the start of the module
  uint16_t thread = 0;
  bool atomic = false;
};

struct alignas(64) Cell {
  Accessors writers;
  Accessors readers;
  uint32_t foreign_write = 0;  // first epoch of the launch in which an earlier block wrote (atomically) or read
  uint32_t foreign_read = 0;
  uint32_t copying = 0;  // number of the launch in which a cp.async to this place is under way
  uint32_t split = 0;    // first epoch of the scope in which the word was accessed in parts
};

// Cells of a range of words, zero (never touched) until used; memory is committed as it is touched.
class Shadow {
 public:
  Shadow() = default;
  ~Shadow();
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  void reserve(size_t words);  // throws std::bad_alloc; forgets everything when it has to grow
  void forget();
  Cell& word(size_t i) const { return words_[i]; }
  Cell* parts(size_t i) const { return parts_ + 4 * i; }

 private:
  void release();

  Cell* words_ = nullptr;
  Cell* parts_ = nullptr;
  size_t count_ = 0;
};

}  // namespace tk::simt::race
