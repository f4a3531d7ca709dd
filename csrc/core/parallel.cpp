// SPDX-License-Identifier: Apache-2.0
// A small thread pool: dynamic chunks, a short spin before sleeping, safe after fork.
#include "core/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace tk {
namespace {

// Long enough to bridge two ops of one model step, short enough not to burn a core between steps.
constexpr int kSpins = 2000;

thread_local bool inside_loop = false;

int affinity_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

int environment_threads() {
  const char* text = std::getenv("TOKERNEL_NUM_THREADS");
  const int n = text ? std::atoi(text) : 0;
  return std::max(0, n);
}

std::atomic<int> user_limit{environment_threads()};
std::atomic<int> framework_limit{0};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Loop {
  int64_t chunks = 0;
  void (*fn)(void*, int64_t) = nullptr;
  void* context = nullptr;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    inside_loop = true;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      if (failed.load(std::memory_order_relaxed)) continue;
      run_one(i);
    }
    inside_loop = false;
  }

  void run_one(int64_t i) {
    try {
      fn(context, i);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      failed.store(true, std::memory_order_relaxed);
    }
  }
};

class Pool {
 public:
  // One loop at a time: a second caller runs its loop alone instead of waiting.
  bool run(Loop& loop, int threads) {
    const std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy) return false;
    grow(threads - 1);
    const int helpers = std::min<int>(threads - 1, static_cast<int>(workers_.size()));
    {
      const std::lock_guard lock(mutex_);
      loop_ = &loop;
      wanted_ = helpers;
      running_.store(helpers, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    loop.work();
    for (int spins = 0; running_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
    return true;
  }

 private:
  void grow(int count) {
    while (static_cast<int>(workers_.size()) < count) {
      const int id = static_cast<int>(workers_.size());
      // A worker must not see the generations of loops that ended before it was born.
      workers_.emplace_back([this, id, seen = generation_.load()] { serve(id, seen); });
      workers_.back().detach();
    }
  }

  struct Assignment {
    uint64_t generation;
    Loop* loop;  // null when this worker is not wanted
  };

  // Generation, loop and head count are read under one lock: a worker that lags behind must not mix two loops.
  Assignment wait_for_loop(int id, uint64_t seen) {
    for (int spins = 0; spins < kSpins; ++spins) {
      if (generation_.load(std::memory_order_acquire) != seen) break;
      relax();
    }
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
    return {generation_.load(std::memory_order_relaxed), id < wanted_ ? loop_ : nullptr};
  }

  void serve(int id, uint64_t seen) {
    for (;;) {
      const Assignment assignment = wait_for_loop(id, seen);
      seen = assignment.generation;
      if (!assignment.loop) continue;
      assignment.loop->work();
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex busy_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> running_{0};
  int wanted_ = 0;
  Loop* loop_ = nullptr;
};

// Never destroyed: detached workers may outlive static destruction. A forked child starts a fresh pool, because
// threads do not survive fork; the parent's object is abandoned there on purpose.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    pool.store(nullptr);
    inside_loop = false;
  });
  static_cast<void>(registered);
  Pool* current = pool.load(std::memory_order_acquire);
  if (current) return *current;
  Pool* fresh = new Pool;
  if (pool.compare_exchange_strong(current, fresh)) return *fresh;
  delete fresh;
  return *current;
}

void run_inline(int64_t chunks, void (*fn)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < chunks; ++i) fn(context, i);
}

}  // namespace

int num_threads() {
  static const int cores = affinity_threads();
  int n = cores;
  if (const int limit = user_limit.load(std::memory_order_relaxed)) n = std::min(n, limit);
  if (const int limit = framework_limit.load(std::memory_order_relaxed)) n = std::min(n, limit);
  return n;
}

void set_num_threads(int n) { user_limit.store(std::max(0, n)); }
void set_framework_threads(int n) { framework_limit.store(std::max(0, n), std::memory_order_relaxed); }

void run_chunks(int64_t chunks, void (*fn)(void* context, int64_t chunk), void* context) {
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), chunks));
  if (threads <= 1 || inside_loop) return run_inline(chunks, fn, context);
  Loop loop;
  loop.chunks = chunks;
  loop.fn = fn;
  loop.context = context;
  if (!the_pool().run(loop, threads)) return run_inline(chunks, fn, context);
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace tk
