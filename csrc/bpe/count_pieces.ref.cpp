// SPDX-License-Identifier: Apache-2.0
// One piece after the other, into an ordered map.
#include "bpe/count_pieces.h"

#include <map>

#include "bpe/scan.h"

namespace tk::bpe::ref {
namespace {

const uint8_t* piece_end(Pattern pattern, const uint8_t* p, const uint8_t* end) {
  switch (pattern) {
    case Pattern::gpt2:
      return Scanner<Pattern::gpt2>::next(p, end);
    case Pattern::cl100k:
      return Scanner<Pattern::cl100k>::next(p, end);
    case Pattern::o200k:
      return Scanner<Pattern::o200k>::next(p, end);
    case Pattern::qwen2:
      return Scanner<Pattern::qwen2>::next(p, end);
    case Pattern::tekken:
      return Scanner<Pattern::tekken>::next(p, end);
    default:
      return Scanner<Pattern::none>::next(p, end);
  }
}

}  // namespace

void count_pieces(const CountPiecesArgs& a) {
  std::map<std::string, int64_t> counts;
  for (int64_t t = 0; t < a.count; ++t) {
    const CountedText& text = a.texts[t];
    for (const uint8_t *p = text.begin, *next; p < text.begin + text.size; p = next) {
      next = piece_end(a.pattern, p, text.begin + text.all);
      ++counts[std::string(p, next)];
    }
  }
  for (const auto& [piece, count] : counts) {
    a.counter->add(reinterpret_cast<const uint8_t*>(piece.data()), static_cast<int64_t>(piece.size()), 0, count);
  }
}

}  // namespace tk::bpe::ref
