// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_entropy.h"

#include "quantize/soft_codes.ref.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void add_row(const CodebookEntropyArgs& a, int64_t q, int64_t n, Numbers* mean) {
  Numbers log_p = scores<T>(a, q, n);
  a.lse[q * a.rows + n] = static_cast<float>(log_softmax(a.inv_temperature, &log_p));
  const double share = share_of(a, q, n);
  double entropy = 0;
  for (int64_t k = 0; k < a.codes_count; ++k) {
    const double p = std::exp(log_p[k]);
    entropy -= p == 0 ? 0 : p * guarded_log(a, log_p[k]);
    if (share != 0) (*mean)[k] += share * p;
  }
  a.entropy[q * a.rows + n] = static_cast<float>(entropy);
}

}  // namespace

void codebook_entropy(const CodebookEntropyArgs& a) {
  for (int64_t q = 0; q < a.books; ++q) {
    Numbers mean(a.codes_count);
    for (int64_t n = 0; n < a.rows; ++n) {
      TK_FLOAT_SWITCH(a.dtype, T, add_row<T>(a, q, n, &mean))
    }
    for (int64_t k = 0; k < a.codes_count; ++k) a.mean_prob[q * a.codes_count + k] = static_cast<float>(mean[k]);
  }
}

}  // namespace tk::quantize::ref
