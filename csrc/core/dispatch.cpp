// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"

#include <atomic>
#include <string>

#include "core/error.h"

namespace tk {
namespace {

constexpr const char* kNames[] = {"ref", "v2", "v3", "v4", "neon"};

std::atomic<Level> process_level{Level::count};
thread_local Level thread_level = Level::count;
thread_local Level last = Level::count;

Level detect_best() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return Level::v4;
  if (__builtin_cpu_supports("x86-64-v3")) return Level::v3;
  return Level::v2;
#elif defined(__aarch64__)
  return Level::neon;
#else
  return Level::ref;
#endif
}

Level best_level() {
  static const Level best = detect_best();
  return best;
}

void require_usable(Level level) {
  if (level == Level::count || level_usable(level)) return;
  throw ValueError(std::string("backend: '") + level_name(level) + "' cannot run on this machine");
}

}  // namespace

const char* level_name(Level level) { return level == Level::count ? "none" : kNames[static_cast<int>(level)]; }

bool level_compiled(Level level) {
  if (level == Level::ref) return true;
#if defined(__x86_64__)
  return level == Level::v2 || level == Level::v3 || level == Level::v4;
#elif defined(__aarch64__)
  return level == Level::neon;
#else
  return false;
#endif
}

bool level_usable(Level level) {
  if (!level_compiled(level)) return false;
  return level == Level::ref || level <= best_level();
}

Level current_level() {
  if (thread_level != Level::count) return thread_level;
  const Level forced = process_level.load(std::memory_order_relaxed);
  return forced != Level::count ? forced : best_level();
}

Level force_thread_level(Level level) {
  require_usable(level);
  const Level previous = thread_level;
  thread_level = level;
  return previous;
}

Level force_process_level(Level level) {
  require_usable(level);
  return process_level.exchange(level);
}

void note_last_level(Level level) { last = level; }
Level last_level() { return last; }

}  // namespace tk
