// SPDX-License-Identifier: Apache-2.0
#include "tree/gumbel_argmax.h"

namespace tk::tree::ref {
namespace {

template <class T>
int64_t best_of_row(const GumbelArgmaxArgs& a, int64_t row) {
  const T* logits = logits_row<T>(a, row);
  const float* u = a.u + row * a.u_stride;
  Candidate best{0, -1};
  for (int64_t v = 0; v < a.width; ++v) {
    float score = to_float(logits[v]);
    if (a.scale != 0) score = noisy_score<int32_t>(lone_product(score, a.scale), bound_noise(u[v]));
    const Candidate item{score_key(score), v};
    if (comes_before(item, best)) best = item;
  }
  return best.index;
}

}  // namespace

void gumbel_argmax(const GumbelArgmaxArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    TK_FLOAT_SWITCH(a.dtype, T, a.index[row] = best_of_row<T>(a, row))
  }
}

}  // namespace tk::tree::ref
