// SPDX-License-Identifier: Apache-2.0
// The state of the one block that is running, shared by the executor's own files. One launch at a time: whoever
// starts one holds `machine_mutex`.
#pragma once
#include <array>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "simt/fiber.h"
#include "simt/machine.h"
#include "simt/options.h"

namespace tk::simt {

// Reports are built out of line, so that the frames of every switch stay small.
#define TK_COLD [[noreturn]] __attribute__((noinline, cold))

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxWarps = kMaxThreads / 32;
constexpr size_t kStaticSharedLimit = 48 * 1024;
constexpr size_t kSharedLimit = 232448;
constexpr size_t kRedZone = 64;  // never handed out, between any two arrays

constexpr size_t kCopyBytes = 16;  // of one cp.async

enum class State : uint8_t { ready, barrier, warp, done };

// Warp-wide operations that lanes of one mask perform together.
enum class Collective : uint8_t {
  sync,
  shuffle_index,
  shuffle_up,
  shuffle_down,
  shuffle_exchange,
  vote,
  mma_f16,
  mma_bf16,
  matrix_x2,
  matrix_x2_transposed,
  matrix_x4,
  matrix_x4_transposed,
};

struct Warp {
  // Lanes that wait together: the same operation with the same mask.
  struct Group {
    Collective kind;
    uint32_t mask;
    uint32_t arrived;
  };
  uint32_t present = 0;  // lanes that exist and have not returned
  unsigned open = 0;
  std::array<Group, 32> groups;
  std::array<uint64_t, 32> value;
  std::array<uint64_t, 32> result;
  std::array<int8_t, 32> source;
  std::array<Site, 32> site;
};

struct PendingCopy {
  void* shared;
  const void* global;
  bool valid;
  unsigned group;
};

struct SharedArray {
  const char* name;
  size_t offset, bytes;
};

struct Machine {
  // ---- what is asked for: set by the caller between launches
  std::string op = "kernel";
  Switching switching = Switching::native;
  Schedule schedule;
  CopyTiming timing = CopyTiming::at_wait;
  uint8_t poison = 0xFF;
  uint64_t access_limit = ~uint64_t{0};
  Statistics statistics;

  // ---- the launch
  uint64_t launch = 0;
  Grid grid{dim3(0)};
  dim3 block;
  Body body{};
  unsigned threads = 0;
  std::array<uint3, kMaxThreads> index;

  // ---- the block
  uint3 block_index{};
  unsigned self = 0;  // the thread that runs; meaningful while `running`
  bool running = false;
  unsigned ready = 0, live = 0, waiting = 0;
  uint64_t accesses = 0;  // of the running thread since it was resumed
  Site barrier_site;
  std::array<State, kMaxThreads> state;
  std::array<Warp, kMaxWarps> warps;
  std::array<std::vector<PendingCopy>, kMaxThreads> copies;
  std::array<unsigned, kMaxThreads> copy_group;

  // ---- the schedule
  std::array<uint16_t, kMaxThreads> order;
  unsigned cursor = 0;
  std::minstd_rand random;

  // ---- fibers; `prepared` of them are parked at the top of their loop
  StackPool stacks;
  Fiber main;
  std::unique_ptr<Fiber[]> fibers;
  unsigned prepared = 0;
  std::string error;

  // ---- shared memory: the dynamic bytes, then the static arrays, with red zones between
  std::unique_ptr<unsigned char[]> arena_memory;
  unsigned char* arena = nullptr;
  size_t arena_used = 0;                      // high-water mark, red zones included
  size_t shared_bytes = 0, static_bytes = 0;  // what CUDA would count
  std::vector<SharedArray> arrays;
};

constexpr size_t kArenaBytes = 2 * kSharedLimit;

extern Machine the_machine;
inline Machine& machine() { return the_machine; }
std::mutex& machine_mutex();

// From a kernel: stops the launch, which then throws `message` with the place added. Outside one: throws at once.
TK_COLD void fail(const std::string& message);

// Suspends the calling thread in `state` until somebody makes it ready.
void park(State state);
inline void wake(unsigned thread) {
  the_machine.state[thread] = State::ready;
  ++the_machine.ready;
}

// Warp bookkeeping at the start of a block and when a thread returns.
void reset_warps();
void leave_warp(unsigned thread);

// A copy still in flight when its thread returns is an error.
void check_copies_landed(unsigned thread);
void reset_copies();

void reset_shared(size_t dynamic_bytes);  // at the start of a launch
void poison_shared();                     // at the start of a block

std::string text_of(const Site& site);
std::string text_of(unsigned thread);

}  // namespace tk::simt
