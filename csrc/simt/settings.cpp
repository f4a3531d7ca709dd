// SPDX-License-Identifier: Apache-2.0
#include "simt/settings.h"

#include <iterator>

#include "simt/banks.h"
#include "simt/executor.h"
#include "simt/race.h"

namespace tk::simt {

Options& settings() {
  static Options options;
  return options;
}

void configure(const std::string& op, const Schedule& schedule, CopyTiming timing, size_t index) {
  Machine& m = machine();
  const Options& options = settings();
  if (m.switching != options.switching) m.prepared = 0;  // fibers are parked in the way of the other switch
  m.switching = options.switching;
  m.op = op;
  m.access_limit = options.access_limit;
  m.schedule = schedule;
  m.timing = timing;
  m.poison = kPoisons[index % std::size(kPoisons)];
  race::watch(options.detector == Detector::all || (options.detector == Detector::first && index == 0));
  banks::count(options.count_banks && index == 0);
}

}  // namespace tk::simt
