// SPDX-License-Identifier: Apache-2.0
// Every thread takes one portion of text after the other and counts into its own table; the tables are added up. Sums
// are the same whoever counted what.
#include "bpe/count_pieces.h"

#include <algorithm>
#include <atomic>

#include "bpe/pieces.h"
#include "bpe/safe_cut.h"
#include "core/parallel.h"

namespace tk::bpe {
namespace {

constexpr int64_t kPortion = 1 << 17;  // bytes of text

// Several short texts, or a part of a long one.
struct Portion {
  int64_t first, last;  // texts
  int64_t part;         // of the long one
};

std::vector<Portion> portions_of(const CountPiecesArgs& a) {
  std::vector<Portion> portions;
  int64_t first = 0, bytes = 0;
  for (int64_t t = 0; t < a.count; ++t) {
    bytes += a.texts[t].size;
    if (bytes < kPortion && t + 1 < a.count) continue;
    if (first < t && a.texts[t].size > kPortion) portions.push_back({first, t, 0}), first = t;
    const int64_t parts = first < t ? 1 : (a.texts[t].size + kPortion - 1) / kPortion;
    for (int64_t part = 0; part < parts; ++part) portions.push_back({first, t + 1, part});
    first = t + 1;
    bytes = 0;
  }
  return portions;
}

template <Pattern pattern>
void count_between(const uint8_t* from, const uint8_t* to, const uint8_t* end, PieceCounter::Queue& queue) {
  Pieces<pattern> pieces(from, end);
  for (const uint8_t *p = from, *next; p < to; p = next) {
    next = pieces.next();
    queue.add(p, next - p, end - p);
  }
}

template <Pattern pattern>
void count_part(const CountedText& text, int64_t part, PieceCounter::Queue& queue) {
  const uint8_t *to = text.begin + text.size, *end = text.begin + text.all;
  const uint8_t* low = text.begin + part * kPortion;
  const uint8_t* high = to - low > kPortion ? low + kPortion : to;
  const uint8_t* from = safe_cut(pattern, low, high, text.begin, end);
  if (from == high) return;
  if (high < to) to = safe_cut(pattern, high, to, text.begin, end);
  count_between<pattern>(from, to, end, queue);
}

template <Pattern pattern>
void count_portion(const CountPiecesArgs& a, const Portion& portion, PieceCounter* counter) {
  PieceCounter::Queue queue(counter);  // one for all texts: to fill and to empty it costs as much as a short text
  if (portion.last - portion.first == 1) {
    count_part<pattern>(a.texts[portion.first], portion.part, queue);
  } else {
    for (int64_t t = portion.first; t < portion.last; ++t) {
      const CountedText& text = a.texts[t];
      count_between<pattern>(text.begin, text.begin + text.size, text.begin + text.all, queue);
    }
  }
  queue.flush();
}

template <Pattern pattern>
void count_texts(const CountPiecesArgs& a) {
  const std::vector<Portion> portions = portions_of(a);
  const auto count = static_cast<int64_t>(portions.size());
  const int64_t most = a.threads ? std::min<int64_t>(a.threads, num_threads()) : num_threads();
  std::vector<PieceCounter> others(std::max<int64_t>(0, std::min(most, count) - 1));
  std::atomic<int64_t> next{0};
  parallel_for(static_cast<int64_t>(others.size()) + 1, [&](int64_t thread) {
    PieceCounter* counter = thread == 0 ? a.counter : &others[thread - 1];
    for (int64_t i; (i = next.fetch_add(1)) < count;) count_portion<pattern>(a, portions[i], counter);
  });
  for (const PieceCounter& other : others) a.counter->add(other);
}

}  // namespace

void host::count_pieces(const CountPiecesArgs& a) {
  switch (a.pattern) {
    case Pattern::gpt2:
      return count_texts<Pattern::gpt2>(a);
    case Pattern::cl100k:
      return count_texts<Pattern::cl100k>(a);
    case Pattern::o200k:
      return count_texts<Pattern::o200k>(a);
    case Pattern::qwen2:
      return count_texts<Pattern::qwen2>(a);
    case Pattern::tekken:
      return count_texts<Pattern::tekken>(a);
    default:
      return count_texts<Pattern::none>(a);
  }
}

int64_t settled_bytes(Pattern pattern, const uint8_t* text, int64_t size) {
  if (pattern == Pattern::none || size < 5) return 0;
  // The last three bytes may begin a character that goes on.
  for (const uint8_t* p = text + size - 4; p > text; --p) {
    if (!is_char_start(p, text, text + size)) continue;
    const Classes before = read_char_before(p, text, text + size).set;
    if (is_safe_cut(before, read_char(p, text + size).set, *p)) return p - text;
  }
  return 0;
}

}  // namespace tk::bpe
