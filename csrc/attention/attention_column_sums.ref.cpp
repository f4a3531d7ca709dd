// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_column_sums.h"

#include "attention/map.ref.h"

namespace tk::attention::ref {
namespace {

template <class T, class P>
void sum_columns(const AttentionColumnSumsArgs& a, int64_t b, int64_t h) {
  const Extents& e = a.shape.extents;
  const P policy(a.policy, e, b, h);
  const int64_t head = b * a.shape.heads + h;
  for (int64_t j = 0; j < e.keys; ++j) {
    double sum = 0;
    for (int64_t i = 0; i < e.queries; ++i) {
      const double weight = a.weight ? a.weight[b * a.weight_batch_stride + i] : 1.0;
      if (weight == 0 || !policy.allowed(i, j)) continue;
      sum += weight * probability<T>(a, b, h, i, j, lse_of(a.lse, a.dtype, head * e.queries + i));
    }
    a.out[head * e.keys + j] = static_cast<float>(sum);
  }
}

}  // namespace

void attention_column_sums(const AttentionColumnSumsArgs& a) {
  for (int64_t b = 0; b < a.shape.batch; ++b) {
    for (int64_t h = 0; h < a.shape.heads; ++h) {
      TK_SCALAR_SWITCH(a.dtype, T, {TK_POLICY_SWITCH(a.policy.kind, P, sum_columns<T, P>(a, b, h))})
    }
  }
}

}  // namespace tk::attention::ref
