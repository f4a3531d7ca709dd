// SPDX-License-Identifier: Apache-2.0
#include "quantize/codebook_stats.h"

#include <algorithm>
#include <cmath>

namespace tk::quantize::ref {
namespace {

void measure_book(const CodebookStatsArgs& a, int64_t q) {
  int64_t* counts = a.counts + q * a.codes;
  std::fill_n(counts, a.codes, 0);
  int64_t total = 0;
  for (int64_t n = 0; n < a.rows; ++n) {
    const int64_t k = a.index[q * a.rows + n];
    if (k < 0) continue;
    ++counts[k];
    ++total;
  }
  int64_t used = 0;
  double entropy = 0;
  for (int64_t k = 0; k < a.codes; ++k) {
    if (counts[k] == 0) continue;
    const double p = static_cast<double>(counts[k]) / static_cast<double>(total);
    ++used;
    entropy -= p * std::log(p);
  }
  a.usage[q] = static_cast<float>(static_cast<double>(used) / static_cast<double>(a.codes));
  a.entropy[q] = static_cast<float>(entropy);
  a.perplexity[q] = static_cast<float>(std::exp(entropy));
  a.normalized[q] = used > 1 ? static_cast<float>(entropy / std::log(static_cast<double>(used))) : 0.0f;
}

}  // namespace

void codebook_stats(const CodebookStatsArgs& a) {
  for (int64_t q = 0; q < a.books; ++q) measure_book(a, q);
}

}  // namespace tk::quantize::ref
