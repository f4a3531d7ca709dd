// SPDX-License-Identifier: Apache-2.0
#include "select/power_iterate.h"

#include <cmath>
#include <vector>

namespace tk::selection::ref {
namespace {

template <class T>
void iterate_head(const PowerIterateArgs& a, int64_t head) {
  const T* map = map_of_head<T>(a, head);
  float* s = a.out + head * a.tokens;
  for (int64_t j = 0; j < a.tokens; ++j) {
    s[j] = a.start ? a.start[head * a.tokens + j] : 1.0f / static_cast<float>(a.tokens);
  }
  bool moving = true;
  for (int64_t t = 0; t < a.iters && moving; ++t) {
    const std::vector<float> before(s, s + a.tokens);
    moving = false;
    for (int64_t j = 0; j < a.tokens; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < a.tokens; ++i) {
        sum += static_cast<double>(to_float(map[i * a.row_stride + j])) * before[static_cast<size_t>(i)];
      }
      s[j] = static_cast<float>(sum);
      moving |= !(std::fabs(s[j] - before[static_cast<size_t>(j)]) <= a.eps);
    }
  }
}

}  // namespace

void power_iterate(const PowerIterateArgs& a) {
  for (int64_t head = 0; head < a.batch * a.heads; ++head) {
    TK_FLOAT_SWITCH(a.dtype, T, iterate_head<T>(a, head))
  }
}

}  // namespace tk::selection::ref
