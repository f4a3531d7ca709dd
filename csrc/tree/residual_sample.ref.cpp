// SPDX-License-Identifier: Apache-2.0
#include "tree/residual_sample.h"

#include "tree/mass_row.ref.h"

namespace tk::tree::ref {
namespace {

template <class T>
int64_t sample_row(const ResidualSampleArgs& a, int64_t n) {
  const MassRow p = read_mass_row(static_cast<const T*>(a.p) + n * a.p_row_stride, a.width, a.slack);
  const MassRow q = read_mass_row(static_cast<const T*>(a.q) + n * a.q_row_stride, a.width, a.slack);
  if (!p.valid) return kNoTarget;
  return q.valid ? draw_item(residual_row(p, q), a.u[n]) : kNoDraft;
}

}  // namespace

void residual_sample(const ResidualSampleArgs& a) {
  for (int64_t n = 0; n < a.rows; ++n) {
    TK_FLOAT_SWITCH(a.dtype, T, a.index[n] = sample_row<T>(a, n))
  }
}

}  // namespace tk::tree::ref
