// SPDX-License-Identifier: Apache-2.0
// tokenize_longest: greedy segmentation: at every position the longest pattern that matches there.
//
//   text  N bytes, covered by leftmost-longest matches of the trie; what they leave is unknown
//
// Every unknown byte, or every unknown UTF-8 character (a byte and the continuation bytes 0x80 to 0xBF after it), gives
// `unknown.id`. Without `unknown.allowed`, the first unknown byte is an error.
#pragma once
#include "bpe/ragged.h"
#include "bpe/trie.h"

namespace tk::bpe {

struct Unknown {
  bool allowed = false;
  bool whole_characters = true;
  int64_t id = 0;
};

inline bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// How far the unknown unit at `at` goes, at most to `end`.
inline int64_t unknown_end(std::string_view text, int64_t at, int64_t end, const Unknown& unknown) {
  ++at;
  while (unknown.whole_characters && at < end && continues_character(text[at])) ++at;
  return at;
}

RaggedIds tokenize_longest(const Trie& trie, const Texts& texts, const Unknown& unknown);

namespace ref {
RaggedIds tokenize_longest(const Trie& trie, const Texts& texts, const Unknown& unknown);
}

}  // namespace tk::bpe
