// SPDX-License-Identifier: Apache-2.0
// Temporary memory of a CPU kernel: 64-byte aligned, reused per thread, never initialised.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tk {

// Blocks nest like a stack: the one taken last is given back first.
class ScratchBytes {
 public:
  explicit ScratchBytes(size_t bytes);  // throws std::bad_alloc
  ~ScratchBytes();
  ScratchBytes(const ScratchBytes&) = delete;
  ScratchBytes& operator=(const ScratchBytes&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
  void* owned_;  // set when the block did not fit the thread's arena
  size_t bytes_;
};

namespace {
template <class T>
class Scratch : ScratchBytes {
 public:
  explicit Scratch(int64_t count) : ScratchBytes(static_cast<size_t>(count) * sizeof(T)) {}
  T* data() const { return static_cast<T*>(ScratchBytes::data()); }
  T& operator[](int64_t i) const { return data()[i]; }
};
}  // namespace
}  // namespace tk
