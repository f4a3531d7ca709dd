// SPDX-License-Identifier: Apache-2.0
// Which CPU implementation runs. Levels are compiled in by CMake and chosen once per call, outside every loop.
#pragma once

namespace tk {

enum class Level : int { ref = 0, v2, v3, v4, neon, count };

template <class Args>
using Kernel = void(const Args&);

template <class Args>
struct Table {
  Kernel<Args>* fn[static_cast<int>(Level::count)];
};

const char* level_name(Level level);

// Compiled into this build, and also executable on this machine.
bool level_compiled(Level level);
bool level_usable(Level level);

// The fastest usable level, unless the calling thread or the process forces another.
Level current_level();

// Forces a level for the calling thread (the `use_backend` context) or for the process (TOKERNEL_BACKEND).
// `count` lifts the force. Returns the previous value. Throws ValueError for a level that cannot run.
Level force_thread_level(Level level);
Level force_process_level(Level level);

// The level of the last op that ran on the calling thread: lets a test prove which code it tested.
void note_last_level(Level level);
Level last_level();

}  // namespace tk

#if defined(__x86_64__)
#define TK_LEVEL_TABLE(family, op) \
  {&::tk::family::ref::op, &::tk::family::v2::op, &::tk::family::v3::op, &::tk::family::v4::op, nullptr}
#elif defined(__aarch64__)
#define TK_LEVEL_TABLE(family, op) {&::tk::family::ref::op, nullptr, nullptr, nullptr, &::tk::family::neon::op}
#else
#define TK_LEVEL_TABLE(family, op) {&::tk::family::ref::op, nullptr, nullptr, nullptr, nullptr}
#endif
