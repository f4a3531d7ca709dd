// SPDX-License-Identifier: Apache-2.0
#include "bpe/count_pairs.h"

#include <map>
#include <utility>

namespace tk::bpe::ref {

void count_pairs(const CountPairsArgs& a) {
  const auto id_at = [&](int64_t n) {
    return a.dtype == DType::i32 ? int64_t{static_cast<const int32_t*>(a.ids)[n]}
                                 : static_cast<const int64_t*>(a.ids)[n];
  };
  std::map<std::pair<int64_t, int64_t>, uint64_t> counts;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t n = a.offsets[b]; n + 1 < a.offsets[b + 1]; ++n) {
      counts[{id_at(n), id_at(n + 1)}] += a.weights ? static_cast<uint64_t>(a.weights[b]) : 1;
    }
  }
  int64_t k = 0;
  for (const auto& [pair, count] : counts) {
    a.pairs[2 * k] = pair.first;
    a.pairs[2 * k + 1] = pair.second;
    a.counts[k++] = static_cast<int64_t>(count);
  }
  a.total[0] = k;
}

}  // namespace tk::bpe::ref
