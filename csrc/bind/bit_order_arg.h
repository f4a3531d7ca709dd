// SPDX-License-Identifier: Apache-2.0
// The argument `order` of ops that read bits as a number: which end comes first.
#pragma once
#include <string>
#include <string_view>

#include "bind/call.h"

namespace tk::bind {

inline bool high_bit_first(const Call& call, std::string_view order) {
  if (order != "lsb" && order != "msb") {
    call.fail_value("order", "'lsb' or 'msb'", std::string("'").append(order).append("'"));
  }
  return order == "msb";
}

}  // namespace tk::bind
