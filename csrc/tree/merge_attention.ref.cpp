// SPDX-License-Identifier: Apache-2.0
#include "tree/merge_attention.h"

#include <cmath>

namespace tk::tree::ref {
namespace {

template <class T>
void merge_row(const MergeAttentionArgs& a, int64_t b, int64_t h, int64_t n) {
  const PartShape& s = a.shape;
  const int64_t row = (b * s.heads + h) * s.rows + n;
  const auto lse_of = [&](int64_t k) { return static_cast<double>(*part_lse(a.lses, k, b, h, n)); };
  double most = -INFINITY;
  for (int64_t k = 0; k < s.parts; ++k) most = std::fmax(most, lse_of(k));
  if (most == -INFINITY) most = 0;
  double sum = 0;
  for (int64_t k = 0; k < s.parts; ++k) sum += std::exp(lse_of(k) - most);
  a.lse[row] = static_cast<float>(most + std::log(sum));
  for (int64_t d = 0; d < s.width; ++d) {
    double mixed = 0;
    for (int64_t k = 0; k < s.parts; ++k) {
      if (lse_of(k) == -INFINITY) continue;
      mixed += std::exp(lse_of(k) - most) / sum * to_float(part_row<T>(a.outs, a.part_stride, k, b, h, n)[d]);
    }
    static_cast<T*>(a.out)[row * s.width + d] = from_float<T>(static_cast<float>(mixed));
  }
}

}  // namespace

void merge_attention(const MergeAttentionArgs& a) {
  const PartShape& s = a.shape;
  for (int64_t i = 0; i < s.batch * s.heads * s.rows; ++i) {
    TK_FLOAT_SWITCH(a.dtype, T, merge_row<T>(a, i / s.rows / s.heads, i / s.rows % s.heads, i % s.rows))
  }
}

}  // namespace tk::tree::ref
