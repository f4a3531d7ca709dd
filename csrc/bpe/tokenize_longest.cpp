// SPDX-License-Identifier: Apache-2.0
#include "bpe/tokenize_longest.h"

namespace tk::bpe {

RaggedIds tokenize_longest(const Trie& trie, const Texts& texts, const Unknown& unknown) {
  return for_each_text(texts, [&](std::string_view text, IdSink* sink) -> int64_t {
    const Matches found = trie.find_all(text);
    const size_t count = found.start.size();
    int64_t at = 0;
    for (size_t m = 0; m <= count; ++m) {
      const int64_t start = m < count ? found.start[m] : static_cast<int64_t>(text.size());
      if (at < start && !unknown.allowed) return at;
      for (; at < start; at = sink->ends.back()) sink->add(unknown.id, unknown_end(text, at, start, unknown));
      if (m == count) break;
      at = found.end[m];
      sink->add(trie.values()[found.pattern[m]], at);
    }
    return -1;
  });
}

}  // namespace tk::bpe
