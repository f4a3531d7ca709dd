// SPDX-License-Identifier: Apache-2.0
// A small thread pool: dynamic chunks, a short spin before sleeping, safe to fork at any moment.
#include "core/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace tk {
namespace {

// Long enough to bridge two ops of one model step, short enough not to burn a core between steps.
constexpr int kSpins = 2000;

thread_local bool inside_loop = false;

int affinity_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));  // more processors than cpu_set_t holds
}

std::atomic<int> affinity{0};  // 0: not asked yet
std::atomic<int> user_limit{0};
std::atomic<int> framework_limit{0};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Linux may wake a worker on its caller's processor and leave it there for a whole loop while another one idles (seen
// on virtual machines of two processors: no speed-up at all). A worker that finds itself there moves, and stays away.
class Processors {
 public:
  Processors() { known_ = sched_getaffinity(0, sizeof all_, &all_) == 0; }

  void leave(int processor) const {
    if (!known_ || processor < 0 || sched_getcpu() != processor) return;
    cpu_set_t others = all_;
    CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) > 0) sched_setaffinity(0, sizeof others, &others);
  }

 private:
  cpu_set_t all_;
  bool known_;
};

struct Loop {
  int caller = sched_getcpu();
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
  bool run(Loop& loop, int helpers) {
    const std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy) return false;
    grow(helpers);
    open(loop, helpers);
    loop.work();
    close();
    return true;
  }

 private:
  void grow(int count) {
    for (; workers_ < count; ++workers_) {
      try {
        // A worker must not see the generations of loops that ended before it was born.
        std::thread([this, seen = generation_.load()] { serve(seen); }).detach();
      } catch (const std::system_error&) {
        return;  // the process may have no more threads: the loop runs on those it has
      }
    }
  }

  void open(Loop& loop, int seats) {
    {
      const std::lock_guard lock(mutex_);
      loop_ = &loop;
      seats_ = seats;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

  // A worker that has not come by now is not waited for: on a busy machine it may take milliseconds to wake.
  void close() {
    {
      const std::lock_guard lock(mutex_);
      seats_ = 0;
    }
    for (int spins = 0; seated_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
  }

  // The loop to work on, or null when its seats are taken or it is over. Everything about a loop is read under one
  // lock: a worker that lags behind must not mix two loops.
  Loop* take_seat(uint64_t& seen) {
    for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) relax();
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
    seen = generation_.load(std::memory_order_relaxed);
    if (seats_ == 0) return nullptr;
    --seats_;
    seated_.fetch_add(1, std::memory_order_relaxed);
    return loop_;
  }

  void serve(uint64_t seen) {
    const Processors allowed;
    for (;;) {
      Loop* loop = take_seat(seen);
      if (!loop) continue;
      allowed.leave(loop->caller);
      loop->work();
      seated_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex busy_;  // also guards workers_
  int workers_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> seated_{0};
  int seats_ = 0;
  Loop* loop_ = nullptr;
};

// Never destroyed: detached workers may outlive static destruction. A forked child starts a fresh pool, because
// threads do not survive fork; the parent's object, whatever locks it holds, is abandoned there on purpose.
std::atomic<Pool*> pool{nullptr};

void forget_parent() {
  pool.store(nullptr);
  affinity.store(0);
  inside_loop = false;
}

// Registered while the extension loads: doing it at the first loop could race with a fork in another thread.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, &forget_parent);

Pool& the_pool() {
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
  int n = affinity.load(std::memory_order_relaxed);
  if (n == 0) affinity.store(n = affinity_threads(), std::memory_order_relaxed);
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
  if (!the_pool().run(loop, threads - 1)) return run_inline(chunks, fn, context);
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace tk
