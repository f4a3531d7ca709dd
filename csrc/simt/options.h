// SPDX-License-Identifier: Apache-2.0
// How a launch is executed, and what was counted while it ran.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace tk::simt {

// The order in which the threads of a block, and the blocks of a grid, get to run.
enum class Order : uint8_t { forward, reverse, shuffled };

struct Schedule {
  Order order = Order::forward;
  uint64_t seed = 0;  // of `shuffled`
};

// cp.async may complete at once or as late as its wait: both are legal, and a missing wait shows in one of them only.
enum class CopyTiming : uint8_t { at_issue, at_wait };

// `first` and `all` say in which of the runs of one call the race detector watches.
enum class Detector : uint8_t { off, first, all };

enum class Switching : uint8_t { native, ucontext };

struct Options {
  std::vector<Schedule> schedules{{Order::forward, 0}, {Order::reverse, 0}, {Order::shuffled, 1}};
  std::vector<CopyTiming> timings{CopyTiming::at_wait, CopyTiming::at_issue};
  Detector detector = Detector::first;
  bool count_banks = false;                   // in the first run of each call
  uint64_t access_limit = uint64_t{1} << 28;  // of one thread between two synchronisations, while the detector watches
  Switching switching;                        // native where there is a hand-written switch

  Options();
};

// Counted over every run since the last reset.
struct Statistics {
  uint64_t launches = 0;
  uint64_t blocks = 0;
  uint64_t threads = 0;
  uint64_t switches = 0;
  uint64_t barriers = 0;     // arrivals of one thread
  uint64_t collectives = 0;  // arrivals of one lane
  uint64_t async_copies = 0;
  uint64_t atomics = 0;
  uint64_t accesses = 0;  // loads and stores seen by the race detector
  uint64_t races = 0;
};

std::string to_text(const Schedule& schedule);
std::string to_text(CopyTiming timing);
Schedule schedule_from_text(const std::string& text);  // "forward", "reverse", "shuffled:7"

}  // namespace tk::simt
