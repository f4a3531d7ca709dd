// SPDX-License-Identifier: Apache-2.0
#include "merge/soft_aggregate.h"

#include "merge/soft_weights.ref.h"

namespace tk::merge::ref {
namespace {

template <class T>
void aggregate(const SoftAggregateArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const SoftWeights weights(a, b);
    for (int64_t i = 0; i < a.targets; ++i) {
      double total = 0.0;
      for (int64_t j = 0; j < a.tokens; ++j) total += weights.at(i, j) * weights.mass(j);
      if (a.mass_out) a.mass_out[b * a.targets + i] = static_cast<float>(total);
      for (int64_t c = 0; c < a.width; ++c) {
        const T* x = static_cast<const T*>(a.x) + b * a.x_batch_stride + c;
        double sum = 0.0;
        for (int64_t j = 0; j < a.tokens; ++j) {
          sum += weights.at(i, j) * weights.mass(j) * double{to_float(x[j * a.x_row_stride])};
        }
        const double mean = total == 0.0 ? 0.0 : sum / total;
        static_cast<T*>(a.y)[(b * a.targets + i) * a.width + c] = from_float<T>(static_cast<float>(mean));
      }
    }
  }
}

}  // namespace

void soft_aggregate(const SoftAggregateArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, aggregate<T>(a)) }

}  // namespace tk::merge::ref
