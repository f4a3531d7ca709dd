// SPDX-License-Identifier: Apache-2.0
#include "simt/options.h"

#include <cstdlib>

#include "core/error.h"
#include "simt/fiber.h"

namespace tk::simt {

Options::Options() : switching(kHasNativeSwitch ? Switching::native : Switching::ucontext) {}

std::string to_text(const Schedule& schedule) {
  if (schedule.order == Order::forward) return "forward";
  if (schedule.order == Order::reverse) return "reverse";
  return "shuffled:" + std::to_string(schedule.seed);
}

std::string to_text(CopyTiming timing) { return timing == CopyTiming::at_issue ? "issue" : "wait"; }

Schedule schedule_from_text(const std::string& text) {
  if (text == "forward") return {Order::forward, 0};
  if (text == "reverse") return {Order::reverse, 0};
  const std::string prefix = "shuffled:";
  if (text.compare(0, prefix.size(), prefix) == 0 && text.size() > prefix.size()) {
    char* end = nullptr;
    const uint64_t seed = std::strtoull(text.c_str() + prefix.size(), &end, 10);
    if (*end == '\0') return {Order::shuffled, seed};
  }
  throw ValueError("set_schedules: expected 'forward', 'reverse' or 'shuffled:SEED', got '" + text + "'");
}

}  // namespace tk::simt
