// SPDX-License-Identifier: Apache-2.0
#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

// tk_simt_switch(void** save, void* load): pushes the callee-saved registers, stores the stack pointer in *save,
// takes `load` as the new one and pops. Floating-point control state is the same in all fibers and is not saved.
extern "C" __attribute__((visibility("hidden"))) void tk_simt_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl tk_simt_switch
.hidden tk_simt_switch
.type tk_simt_switch,@function
tk_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tk_simt_switch,.-tk_simt_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl tk_simt_switch
.hidden tk_simt_switch
.type tk_simt_switch,%function
tk_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size tk_simt_switch,.-tk_simt_switch
)");
#endif

namespace tk::simt {
namespace {

// Lays out a stack as tk_simt_switch would have left it, with `entry` as the return address.
void* first_frame(char* stack, size_t bytes, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(stack + bytes);
#if defined(__aarch64__)
  void** frame = top - 20;  // 160 bytes; the link register sits at offset 88
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[11] = reinterpret_cast<void*>(entry);
#else
  void** frame = top - 8;  // six registers, the return address, and a null caller that ends every backtrace
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(entry);
#endif
  return frame;
}

}  // namespace

void prepare_fiber(Fiber& fiber, char* stack, size_t bytes, void (*entry)(), Switching switching) {
  if (switching == Switching::native) {
    fiber.stack_pointer = first_frame(stack, bytes, entry);
    return;
  }
  if (!fiber.context) fiber.context = std::make_unique<ucontext_t>();
  getcontext(fiber.context.get());
  fiber.context->uc_stack.ss_sp = stack;
  fiber.context->uc_stack.ss_size = bytes;
  fiber.context->uc_link = nullptr;
  makecontext(fiber.context.get(), entry, 0);
}

void switch_fiber(Fiber& from, Fiber& to, Switching switching) {
  if constexpr (kHasNativeSwitch) {
    if (switching == Switching::native) return tk_simt_switch(&from.stack_pointer, to.stack_pointer);
  }
  if (!from.context) from.context = std::make_unique<ucontext_t>();
  swapcontext(from.context.get(), to.context.get());
}

StackPool::~StackPool() {
  if (base_) munmap(base_, count_ * stride_);
}

void StackPool::reserve(unsigned count) {
  if (count <= count_) return;
  if (base_) munmap(base_, count_ * stride_);
  base_ = nullptr;
  guard_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  stride_ = guard_ + kStackBytes;
  count_ = 0;
  void* memory = mmap(nullptr, count * stride_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(memory);
  count_ = count;
  for (unsigned i = 0; i < count; ++i) mprotect(base_ + i * stride_, guard_, PROT_NONE);
}

}  // namespace tk::simt
