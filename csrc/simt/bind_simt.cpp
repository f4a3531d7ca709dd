// SPDX-License-Identifier: Apache-2.0
#include "simt/bind_simt.h"

#include <pybind11/stl.h>

#include "core/error.h"
#include "simt/banks.h"
#include "simt/executor.h"
#include "simt/selftest/selftest.h"
#include "simt/settings.h"
#include "simt/where.h"

namespace tk::bind {
namespace py = pybind11;
namespace {

using simt::Options;

constexpr const char* kDetectors[] = {"off", "first", "all"};
constexpr const char* kSwitchings[] = {"native", "ucontext"};

// The GIL is released before the lock is taken: a running call holds the lock and will want the GIL.
template <class Action>
auto locked(Action action) {
  const py::gil_scoped_release unlocked;
  const std::lock_guard<std::mutex> lock(simt::machine_mutex());
  return action();
}

int position(const char* const* names, int count, const std::string& name, const char* what) {
  std::string known;
  for (int i = 0; i < count; ++i) {
    if (name == names[i]) return i;
    known += (i ? ", '" : "'") + std::string(names[i]) + "'";
  }
  throw ValueError(std::string(what) + ": expected one of " + known + ", got '" + name + "'");
}

void set_schedules(const std::vector<std::string>& names) {
  std::vector<simt::Schedule> schedules;
  for (const std::string& name : names) schedules.push_back(simt::schedule_from_text(name));
  if (schedules.empty()) throw ValueError("set_schedules: expected at least one schedule, got none");
  locked([&] { simt::settings().schedules = schedules; });
}

void set_copy_timings(const std::vector<std::string>& names) {
  static constexpr const char* kTimings[] = {"issue", "wait"};
  std::vector<simt::CopyTiming> timings;
  for (const std::string& name : names) {
    timings.push_back(static_cast<simt::CopyTiming>(position(kTimings, 2, name, "set_copy_timings")));
  }
  if (timings.empty()) throw ValueError("set_copy_timings: expected 'issue', 'wait' or both, got none");
  locked([&] { simt::settings().timings = timings; });
}

void set_race_detector(const std::string& name) {
  const auto detector = static_cast<simt::Detector>(position(kDetectors, 3, name, "set_race_detector"));
  locked([&] { simt::settings().detector = detector; });
}

void set_switching(const std::string& name) {
  const auto switching = static_cast<simt::Switching>(position(kSwitchings, 2, name, "set_switching"));
  if (switching == simt::Switching::native && !simt::kHasNativeSwitch) {
    throw ValueError("set_switching: this processor has no native switch");
  }
  locked([&] { simt::settings().switching = switching; });
}

void set_access_limit(uint64_t limit) {
  locked([&] { simt::settings().access_limit = limit; });
}

void count_bank_conflicts(bool on) {
  locked([&] { simt::settings().count_banks = on; });
}

py::dict options() {
  const Options now = locked([] { return simt::settings(); });
  py::list schedules;
  for (const simt::Schedule& schedule : now.schedules) schedules.append(simt::to_text(schedule));
  py::list timings;
  for (const simt::CopyTiming timing : now.timings) timings.append(simt::to_text(timing));
  py::dict d;
  d["schedules"] = schedules;
  d["copy_timings"] = timings;
  d["race_detector"] = kDetectors[static_cast<int>(now.detector)];
  d["access_limit"] = now.access_limit;
  d["count_bank_conflicts"] = now.count_banks;
  d["switching"] = kSwitchings[static_cast<int>(now.switching)];
  return d;
}

py::dict statistics() {
  const simt::Statistics s = locked([] { return simt::machine().statistics; });
  py::dict d;
  d["launches"] = s.launches;
  d["blocks"] = s.blocks;
  d["threads"] = s.threads;
  d["switches"] = s.switches;
  d["barriers"] = s.barriers;
  d["collectives"] = s.collectives;
  d["async_copies"] = s.async_copies;
  d["atomics"] = s.atomics;
  d["accesses"] = s.accesses;
  return d;
}

// One entry for each place of a kernel that used shared memory.
py::list bank_conflicts() {
  static constexpr const char* kKinds[] = {"read", "write", "atomic", "cp.async", "ldmatrix"};
  const std::vector<simt::banks::Place> places = locked([] { return simt::banks::places(); });
  py::list all;
  for (const simt::banks::Place& place : places) {
    py::dict d;
    d["kernel"] = simt::kernel_name(place.kernel);
    d["line"] = simt::source_line(place.pc);
    d["access"] = kKinds[static_cast<int>(place.kind)];
    d["bytes"] = place.bytes;
    d["instructions"] = place.instructions;
    d["wavefronts"] = place.wavefronts;
    d["extra_wavefronts"] = place.wavefronts - place.least;
    d["worst"] = place.worst;
    all.append(d);
  }
  return all;
}

void reset_statistics() {
  locked([] {
    simt::machine().statistics = {};
    simt::banks::reset();
  });
}

std::vector<simt::selftest::Case> selftests() {
  namespace st = simt::selftest;
  std::vector<st::Case> all;
  for (const auto cases : {st::barrier_cases(), st::warp_cases(), st::memory_cases(), st::block_cases(),
                           st::copy_cases(), st::tensor_cases(), st::bank_cases(), st::speed_cases()}) {
    all.insert(all.end(), cases.begin(), cases.end());
  }
  return all;
}

py::list selftest_names() {
  py::list names;
  for (const simt::selftest::Case& test : selftests()) names.append(test.name);
  return names;
}

// Raises RuntimeError for what the executor found in the kernel, and for a wrong result.
void selftest(const std::string& name) {
  for (const simt::selftest::Case& test : selftests()) {
    if (name != test.name) continue;
    const py::gil_scoped_release unlocked;
    return test.run();
  }
  throw ValueError("selftest: no case is named '" + name + "'");
}

}  // namespace

void bind_simt(py::module_& m) {
  m.def("set_schedules", &set_schedules);
  m.def("set_copy_timings", &set_copy_timings);
  m.def("set_race_detector", &set_race_detector);
  m.def("set_switching", &set_switching);
  m.def("set_access_limit", &set_access_limit);
  m.def("options", &options);
  m.def("count_bank_conflicts", &count_bank_conflicts);
  m.def("bank_conflicts", &bank_conflicts);
  m.def("statistics", &statistics);
  m.def("reset_statistics", &reset_statistics);
  m.def("selftest_names", &selftest_names);
  m.def("selftest", &selftest);
}

}  // namespace tk::bind
