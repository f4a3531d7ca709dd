// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_rows.h"

#include "attention/map.ref.h"

namespace tk::attention::ref {
namespace {

template <class T, class P>
void map_rows(const AttentionRowsArgs& a, int64_t b, int64_t h) {
  const Extents& e = a.shape.extents;
  const P policy(a.policy, e, b, h);
  for (int64_t r = 0; r < a.picks; ++r) {
    const int64_t i = a.rows[b * a.rows_batch_stride + r];
    const double lse = lse_of(a.lse, a.dtype, (b * a.shape.heads + h) * e.queries + i);
    float* out = a.out + ((b * a.shape.heads + h) * a.picks + r) * e.keys;
    for (int64_t j = 0; j < e.keys; ++j) {
      out[j] = policy.allowed(i, j) ? static_cast<float>(probability<T>(a, b, h, i, j, lse)) : 0.0f;
    }
  }
}

}  // namespace

void attention_rows(const AttentionRowsArgs& a) {
  for (int64_t b = 0; b < a.shape.batch; ++b) {
    for (int64_t h = 0; h < a.shape.heads; ++h) {
      TK_SCALAR_SWITCH(a.dtype, T, {TK_POLICY_SWITCH(a.policy.kind, P, map_rows<T, P>(a, b, h))})
    }
  }
}

}  // namespace tk::attention::ref
