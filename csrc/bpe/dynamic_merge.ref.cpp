// SPDX-License-Identifier: Apache-2.0
#include "bpe/dynamic_merge.h"

#include <map>
#include <utility>

namespace tk::bpe::ref {
namespace {

using Pair = std::pair<int32_t, int32_t>;
using Rows = std::vector<std::vector<int32_t>>;

int64_t replace(const Pair& pair, int32_t id, std::vector<int32_t>* row) {
  std::vector<int32_t> out;
  int64_t replaced = 0;
  for (size_t i = 0; i < row->size(); ++i) {
    const bool here = i + 1 < row->size() && Pair((*row)[i], (*row)[i + 1]) == pair;
    out.push_back(here ? id : (*row)[i]);
    i += here;
    replaced += here;
  }
  *row = std::move(out);
  return replaced;
}

}  // namespace

MergedPairs merge_pairs_batch(const MergePairsArgs& a) {
  Rows rows;
  for (int64_t b = 0; b < a.sequences; ++b) rows.emplace_back(a.ids + a.offsets[b], a.ids + a.offsets[b + 1]);
  std::map<Pair, bool> known;
  MergedPairs out;
  int32_t next_id = a.next_id;
  for (int64_t m = 0; a.max_merges < 0 || m < a.max_merges; ++m) {
    std::vector<Pair> seen;  // in the order of the scan
    std::map<Pair, int64_t> count;
    for (const auto& row : rows) {
      for (size_t i = 0; i + 1 < row.size(); ++i) {
        const Pair pair(row[i], row[i + 1]);
        if (++count[pair] == 1) seen.push_back(pair);
      }
    }
    const Pair* best = nullptr;
    for (const Pair& pair : seen) {
      if (best != nullptr && count[pair] <= count[*best]) continue;
      if (!known.count(pair)) known[pair] = !a.valid || a.valid(pair.first, pair.second);
      if (known[pair]) best = &pair;
    }
    if (best == nullptr) break;
    const int32_t id = joined_id(a, best->first, best->second, &next_id);
    int64_t replaced = 0;
    for (auto& row : rows) replaced += replace(*best, id, &row);
    out.parts.insert(out.parts.end(), {best->first, best->second});
    out.result.push_back(id);
    out.count.push_back(count[*best]);
    out.replaced.push_back(replaced);
  }
  out.offsets.push_back(0);
  for (const auto& row : rows) {
    out.ids.insert(out.ids.end(), row.begin(), row.end());
    out.offsets.push_back(static_cast<int64_t>(out.ids.size()));
  }
  return out;
}

}  // namespace tk::bpe::ref
