// SPDX-License-Identifier: Apache-2.0
// Fibers: one stack per CUDA thread, switched by hand on x86-64 and aarch64, by ucontext elsewhere.
#pragma once
#include <ucontext.h>

#include <cstddef>
#include <memory>

#include "simt/options.h"

namespace tk::simt {

#if defined(__x86_64__) || defined(__aarch64__)
constexpr bool kHasNativeSwitch = true;
#else
constexpr bool kHasNativeSwitch = false;
#endif

struct Fiber {
  void* stack_pointer = nullptr;
  std::unique_ptr<ucontext_t> context;
};

// Makes the next switch to `fiber` call `entry`, which must never return, on the given stack.
void prepare_fiber(Fiber& fiber, char* stack, size_t bytes, void (*entry)(), Switching switching);
void switch_fiber(Fiber& from, Fiber& to, Switching switching);

// Stacks in one reservation, committed page by page as they are touched, each above a guard page.
class StackPool {
 public:
  static constexpr size_t kStackBytes = size_t{128} << 10;

  StackPool() = default;
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  void reserve(unsigned count);  // throws std::bad_alloc
  // Stack tops are staggered: at equal distances they would all fall into the same few sets of the cache.
  static constexpr size_t usable(unsigned i) { return kStackBytes - i * 7 % 64 * 64; }
  char* stack(unsigned i) const { return base_ + i * stride_ + guard_; }
  // The owner of an address, or -1.
  int owner(const void* address) const {
    const auto offset = static_cast<size_t>(static_cast<const char*>(address) - base_);
    return offset < count_ * stride_ ? static_cast<int>(offset / stride_) : -1;
  }

 private:
  char* base_ = nullptr;
  size_t guard_ = 0;
  size_t stride_ = 0;
  size_t count_ = 0;
};

}  // namespace tk::simt
