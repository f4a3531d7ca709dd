// SPDX-License-Identifier: Apache-2.0
#include "bpe/tokenize_longest.h"

namespace tk::bpe::ref {

RaggedIds tokenize_longest(const Trie& trie, const Texts& texts, const Unknown& unknown) {
  RaggedIds all;
  all.offsets.push_back(0);
  for (int64_t b = 0; b < texts.count; ++b) {
    const std::string_view text = texts[b];
    bool in_unknown = false;  // the last byte was an unknown one
    for (int64_t at = 0; at < static_cast<int64_t>(text.size());) {
      const std::vector<TextMatch> here = prefixes(trie, text, at);
      if (!here.empty()) {
        all.ids.push_back(trie.values()[here.back().pattern]);
        all.ends.push_back(at = here.back().end);
      } else if (in_unknown && unknown.whole_characters && continues_character(text[at])) {
        all.ends.back() = ++at;
      } else {
        if (!unknown.allowed && all.failed_text < 0) all.failed_text = b, all.failed_at = at;
        all.ids.push_back(unknown.id);
        all.ends.push_back(++at);
      }
      in_unknown = here.empty();
    }
    all.offsets.push_back(static_cast<int64_t>(all.ids.size()));
  }
  return all;
}

}  // namespace tk::bpe::ref
