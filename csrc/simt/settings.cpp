// SPDX-License-Identifier: Apache-2.0
#include "simt/settings.h"

#include "simt/executor.h"

namespace tk::simt {

Options& settings() {
  static Options options;
  return options;
}

void configure(const std::string& op, const Options& options, const Schedule& schedule, CopyTiming timing,
               unsigned char poison) {
  Machine& m = machine();
  if (m.switching != options.switching) m.prepared = 0;  // fibers are parked in the way of the other switch
  m.switching = options.switching;
  m.op = op;
  m.schedule = schedule;
  m.timing = timing;
  m.poison = poison;
}

}  // namespace tk::simt
