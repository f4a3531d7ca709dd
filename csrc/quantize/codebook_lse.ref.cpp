// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_lse.h"

#include "quantize/soft_codes.ref.h"

namespace tk::quantize::ref {

void codebook_lse(const CodebookLseArgs& a) {
  for (int64_t i = 0; i < a.books * a.rows; ++i) {
    Numbers s;
    TK_FLOAT_SWITCH(a.dtype, T, s = scores<T>(a, i / a.rows, i % a.rows))
    int64_t best = 0;
    for (int64_t k = 1; k < a.codes_count; ++k) {
      if (s[k] > s[best]) best = k;
    }
    const float highest = static_cast<float>(s[best]);
    a.lse[i] = static_cast<float>(log_softmax(a.inv_temperature, &s));
    const bool spoiled = a.lse[i] != a.lse[i];
    a.best[i] = spoiled ? a.lse[i] : highest;
    a.index[i] = spoiled ? 0 : best;
  }
}

}  // namespace tk::quantize::ref
