// SPDX-License-Identifier: Apache-2.0
// The argument `metric` of ops that measure how far apart rows are.
#pragma once
#include <string>
#include <string_view>

#include "bind/call.h"
#include "core/metric.h"

namespace tk::bind {

enum class Products : bool { refused, allowed };

inline Metric metric_of(const Call& call, std::string_view metric, Products products = Products::refused) {
  if (metric == "l2") return Metric::l2;
  if (metric == "cosine") return Metric::cosine;
  if (metric == "dot" && products == Products::allowed) return Metric::dot;
  const char* known = products == Products::allowed ? "'l2', 'cosine' or 'dot'" : "'l2' or 'cosine'";
  call.fail_value("metric", known, std::string("'").append(metric).append("'"));
}

}  // namespace tk::bind
