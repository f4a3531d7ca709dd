// SPDX-License-Identifier: Apache-2.0
#include "bpe/apply_merges.h"

#include <vector>

namespace tk::bpe::ref {
namespace {

template <class Id>
void merge_all(const ApplyMergesArgs& a) {
  const auto* ids = static_cast<const Id*>(a.ids);
  auto* out = static_cast<Id*>(a.out);
  a.starts[0] = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    std::vector<Id> sequence(ids + a.offsets[b], ids + a.offsets[b + 1]);
    for (const int64_t* merge = a.merges; merge != a.merges + 3 * a.merge_count; merge += 3) {
      size_t kept = 0;
      for (size_t i = 0; i < sequence.size(); ++kept) {
        const bool joined = i + 1 < sequence.size() && sequence[i] == merge[0] && sequence[i + 1] == merge[1];
        sequence[kept] = joined ? static_cast<Id>(merge[2]) : sequence[i];
        i += joined ? 2 : 1;
      }
      sequence.resize(kept);
    }
    for (const Id id : sequence) *out++ = id;
    a.starts[b + 1] = a.starts[b] + static_cast<int64_t>(sequence.size());
  }
}

}  // namespace

void apply_merges(const ApplyMergesArgs& a) { a.dtype == DType::i32 ? merge_all<int32_t>(a) : merge_all<int64_t>(a); }

}  // namespace tk::bpe::ref
