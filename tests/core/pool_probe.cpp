// SPDX-License-Identifier: Apache-2.0
// The thread pool and the scratch memory as plain C functions, for test_pool.py. The pool believes in eight processors,
// so that it is exercised on the smallest machine.
#include <sched.h>

#include <chrono>
#include <new>
#include <vector>

namespace {
int eight_processors(pid_t, size_t, cpu_set_t* set) {
  CPU_ZERO(set);
  for (int i = 0; i < 8; ++i) CPU_SET(i, set);
  return 0;
}
}  // namespace

#define sched_getaffinity eight_processors
#include "../../csrc/core/parallel.cpp"
#undef sched_getaffinity
#include "../../csrc/core/scratch.cpp"

using namespace tk;

extern "C" {

void limit(int threads) { set_num_threads(threads); }
int threads() { return num_threads(); }

// Every chunk runs once: the sum of i over [0, chunks), whatever the threads.
int64_t sum_chunks(int64_t chunks) {
  std::atomic<int64_t> sum{0};
  parallel_for(chunks, [&](int64_t i) { sum += i; });
  return sum;
}

// Ranges cover [0, n) once, in pieces that depend on n and the costs alone. Returns the number of pieces, -1 when
// wrong.
int64_t cover_ranges(int64_t n, int64_t item_cost, int64_t grain) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(n > 0 ? n : 0));
  std::atomic<int64_t> pieces{0};
  parallel_ranges(
      n, item_cost,
      [&](int64_t begin, int64_t end) {
        ++pieces;
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      },
      grain);
  for (const auto& s : seen) {
    if (s != 1) return -1;
  }
  return pieces;
}

// A loop inside a loop runs on the thread that meets it. Returns how often it did not.
int64_t strayed_inner_chunks(int64_t outer, int64_t inner) {
  std::atomic<int64_t> strayed{0};
  parallel_for(outer, [&](int64_t) {
    const auto self = std::this_thread::get_id();
    parallel_for(inner, [&](int64_t) { strayed += std::this_thread::get_id() != self; });
  });
  return strayed;
}

// Which chunk's exception comes out; -1 when none does.
int64_t caught_from(int64_t chunks, int64_t first_bad) {
  try {
    parallel_for(chunks, [&](int64_t i) {
      if (i >= first_bad) throw i;
    });
  } catch (int64_t i) {
    return i;
  }
  return -1;
}

int caught_inside_nested_loop() {
  try {
    parallel_for(4, [](int64_t) { parallel_for(4, [](int64_t) { throw std::bad_alloc(); }); });
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

// Chunks that wait for each other finish only when as many threads really work on the loop at once.
int meet(int threads, int milliseconds) {
  std::atomic<int> arrived{0};
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  parallel_for(threads, [&](int64_t) {
    ++arrived;
    while (arrived < threads && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  return arrived == threads;
}

// Scratch blocks are aligned, disjoint, nest, and are reused by the thread afterwards.
int scratch_is_sound() {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; };
  const void* first;
  {
    const Scratch<float> a(3);
    const Scratch<char> b(1);
    const Scratch<double> large(int64_t{1} << 18);  // two arenas: from the heap
    const Scratch<int> none(0);
    first = a.data();
    if (!aligned(a.data()) || !aligned(b.data()) || !aligned(large.data()) || !aligned(none.data())) return 0;
    if (reinterpret_cast<char*>(a.data() + 3) > b.data()) return 0;
    for (int64_t i = 0; i < int64_t{1} << 18; ++i) large[i] = 1.0;
  }
  const Scratch<float> again(3);
  return again.data() == first;
}

int scratch_too_large_is_bad_alloc() {
  try {
    const Scratch<char> huge(int64_t{1} << 62);
  } catch (const std::bad_alloc&) {
    return scratch_is_sound();
  }
  return 0;
}

}  // extern "C"
