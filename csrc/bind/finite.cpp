// SPDX-License-Identifier: Apache-2.0
// On request, inputs that are NaN or infinite are errors instead of flowing into the answers.
#include <atomic>
#include <string>

#include "bind/call.h"

namespace tk::bind {
namespace {

std::atomic<bool> checking{false};

template <class T>
bool is_finite(T x) {
  const float value = to_float(x);
  return value - value == 0.0f;
}

// The first number of `count` that is not finite, or `count`.
template <class T>
int64_t first_not_finite(const T* x, int64_t count) {
  int64_t i = 0;
  while (i < count && is_finite(x[i])) ++i;
  return i;
}

}  // namespace

bool set_check_finite(bool enabled) { return checking.exchange(enabled); }

void Call::check_finite(const char* name, const Tensor& x) const {
  if (!on_host() || !x || x.dtype == DType::f64 || !checking.load(std::memory_order_relaxed) || is_empty(x)) return;
  const int64_t width = x.size(x.ndim - 1);
  int64_t rows = 1;
  for (int d = 0; d + 1 < x.ndim; ++d) rows *= x.size(d);
  for (int64_t r = 0; r < rows; ++r) {
    int64_t at = 0;
    for (int64_t rest = r, d = x.ndim - 2; d >= 0; rest /= x.size(static_cast<int>(d)), --d) {
      at += rest % x.size(static_cast<int>(d)) * x.stride(static_cast<int>(d));
    }
    TK_FLOAT_SWITCH(x.dtype, T, {
      const T* row = x.as<T>() + at;
      const int64_t i = first_not_finite(row, width);
      if (i < width) {
        std::string got = std::to_string(to_float(row[i]));  // GCC 12 warns of a sum of strings
        got += " at flat position ";
        got += std::to_string(r * width + i);
        fail_value(name, "finite", got);
      }
    })
  }
}

}  // namespace tk::bind
