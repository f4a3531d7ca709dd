// SPDX-License-Identifier: Apache-2.0
// The argument `metric` of ops that measure how far apart rows are.
#pragma once
#include <string>
#include <string_view>

#include "bind/call.h"
#include "core/metric.h"

namespace tk::bind {

inline Metric metric_of(const Call& call, std::string_view metric) {
  if (metric == "l2") return Metric::l2;
  if (metric == "cosine") return Metric::cosine;
  call.fail_value("metric", "'l2' or 'cosine'", std::string("'").append(metric).append("'"));
}

}  // namespace tk::bind
