// SPDX-License-Identifier: Apache-2.0
#include "bpe/encode.h"

#include <vector>

#include "bpe/merge.h"
#include "bpe/split.h"

namespace tk::bpe::ref {
namespace {

std::vector<int64_t> ends_of_text(const EncodeArgs& a, int64_t i) {
  if (a.ends_of) return {a.ends + a.ends_of[i], a.ends + a.ends_of[i + 1]};
  std::vector<int64_t> ends(static_cast<size_t>(a.texts[i].size));
  int64_t count = 0;
  split({a.texts[i].bytes, ends.data(), &count, a.texts[i].size, 0, a.pattern});
  ends.resize(static_cast<size_t>(count));
  return ends;
}

int64_t encode_piece(const VocabView& v, const uint8_t* text, const uint8_t* p, int64_t n, int32_t* out) {
  if (v.whole_piece) {
    out[0] = find_token(v, p, n);
    if (out[0] != kNoToken) return 1;
  }
  return v.complete ? merge_scan(v, p, n, out) : merge_with_gaps(v, text, p, n, out);
}

}  // namespace

void encode(const EncodeArgs& a) {
  for (int64_t i = 0; i < a.batch; ++i) {
    const auto [text, size] = a.texts[i];
    a.ids->reserve(size + kSpanSlack);
    a.counts[i] = 0;
    int64_t begin = 0;
    for (const int64_t end : ends_of_text(a, i)) {
      int32_t* out = a.ids->end();
      const int64_t count = encode_piece(*a.vocab, text, text + begin, end - begin, out);
      for (int64_t k = 0; k < count; ++k) out[k] = a.vocab->ids[out[k]];
      a.ids->grew(count);
      a.counts[i] += count;
      begin = end;
    }
  }
}

}  // namespace tk::bpe::ref
