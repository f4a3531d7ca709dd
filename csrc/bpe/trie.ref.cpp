// SPDX-License-Identifier: Apache-2.0
#include "bpe/trie.h"

#include <algorithm>

namespace tk::bpe::ref {

std::vector<TextMatch> prefixes(const Trie& trie, std::string_view text, int64_t start) {
  std::vector<TextMatch> found;
  for (int64_t p = 0; p < trie.size(); ++p) {
    const std::string_view pattern = trie.patterns()[p];
    if (text.substr(start, pattern.size()) == pattern) {
      found.push_back({start + static_cast<int64_t>(pattern.size()), static_cast<int32_t>(p)});
    }
  }
  std::sort(found.begin(), found.end(), [](const TextMatch& a, const TextMatch& b) { return a.end < b.end; });
  return found;
}

Matches find_all(const Trie& trie, std::string_view text) {
  Matches found;
  for (int64_t at = 0; at < static_cast<int64_t>(text.size());) {
    const std::vector<TextMatch> here = prefixes(trie, text, at);
    if (!here.empty()) found.add(at, here.back().end, here.back().pattern);
    at = here.empty() ? at + 1 : here.back().end;
  }
  return found;
}

std::vector<int32_t> with_prefix(const Trie& trie, std::string_view prefix) {
  std::vector<int32_t> found;
  for (int64_t p = 0; p < trie.size(); ++p) {
    if (trie.patterns()[p].substr(0, prefix.size()) == prefix) found.push_back(static_cast<int32_t>(p));
  }
  std::sort(found.begin(), found.end(), [&](int32_t a, int32_t b) { return trie.patterns()[a] < trie.patterns()[b]; });
  return found;
}

}  // namespace tk::bpe::ref
