// SPDX-License-Identifier: Apache-2.0
// The patterns as they are written: lists of alternatives, each a small function that gives the end of its match or
// nothing, tried in order. A quantifier takes all it can and gives back one character at a time.
#include "bpe/split.h"

#include <optional>
#include <string_view>
#include <vector>

#include "bpe/unicode.h"

namespace tk::bpe::ref {
namespace {

struct Text {
  std::vector<Classes> set;     // by character; one empty set behind the last
  std::vector<uint32_t> point;  // code points; an ill-formed byte is none
  std::vector<int64_t> end;     // byte end of every character

  bool has(size_t i, Classes set_) const { return (set[i] & set_) != 0; }
  bool is(size_t i, uint32_t c) const { return point[i] == c; }
};
using Match = std::optional<size_t>;
using Alternative = Match (*)(const Text&, size_t);

constexpr uint32_t kNoPoint = ~0u;

Text read(const SplitArgs& a) {
  Text text;
  const uint8_t* end = a.text + a.size;
  for (const uint8_t* p = a.text; p < end;) {
    uint32_t point = *p;
    const int bytes = point < 0x80 ? 1 : read_sequence(p, end, &point);
    text.point.push_back(bytes ? point : kNoPoint);
    text.set.push_back(bytes ? set_of(class_of(point)) : kOther);
    p += bytes ? bytes : 1;
    text.end.push_back(p - a.text);
  }
  text.set.push_back(0);
  text.point.push_back(kNoPoint);
  return text;
}

// [set]{0,most}, greedy.
size_t run(const Text& t, size_t i, Classes set, size_t most = ~size_t{0}) {
  for (size_t n = 0; n < most && t.has(i, set); ++n) ++i;
  return i;
}

Match some(size_t from, size_t to) { return to > from ? Match(to) : Match(); }

// '(s|t|re|ve|m|ll|d); of any case: K matches k, and U+017F matches s.
template <bool any_case>
Match contraction(const Text& t, size_t i) {
  const auto letter = [&](size_t at, char c) {
    const auto low = static_cast<uint32_t>(c);
    return t.is(at, low) || (any_case && (t.is(at, low - 32) || (c == 's' && t.is(at, 0x17f))));
  };
  if (!t.is(i, '\'')) return {};
  for (const std::string_view word : {"s", "t", "re", "ve", "m", "ll", "d"}) {
    size_t n = 0;
    while (n < word.size() && letter(i + 1 + n, word[n])) ++n;
    if (n == word.size()) return i + 1 + n;
  }
  return {};
}

//  ?[set]+
template <Classes set>
Match after_space(const Text& t, size_t i) {
  const size_t from = i + t.is(i, ' ');
  return some(from, run(t, from, set));
}

// [^\r\n\p{L}\p{N}]?, as many characters as it takes
size_t lead(const Text& t, size_t i) { return t.set[i] && !t.has(i, kNewline | kLetter | kNumber) ? 1 : 0; }

// [^\r\n\p{L}\p{N}]?\p{L}+
Match led_letters(const Text& t, size_t i) {
  const size_t from = i + lead(t, i);
  return some(from, run(t, from, kLetter));  // without its lead it would begin with no letter
}

// \p{N}{1,most}
template <size_t most>
Match digits(const Text& t, size_t i) {
  return some(i, run(t, i, kNumber, most));
}

//  ?[^\s\p{L}\p{N}]+[\r\n]*, or [\r\n/]*
template <bool slashes>
Match symbols(const Text& t, size_t i) {
  Match m = after_space<kSymbol>(t, i);
  while (m && (t.has(*m, kNewline) || (slashes && t.is(*m, '/')))) ++*m;
  return m;
}

// \s*[\r\n]+
Match newlines(const Text& t, size_t i) {
  for (size_t q = run(t, i, kSpace) + 1; q-- > i;) {
    const size_t to = run(t, q, kNewline);
    if (to > q) return to;
  }
  return {};
}

// \s+(?!\S)
Match trailing_space(const Text& t, size_t i) {
  for (size_t q = run(t, i, kSpace); q > i; --q) {
    if (!t.has(q, ~kSpace)) return q;
  }
  return {};
}

// \s+
Match space(const Text& t, size_t i) { return some(i, run(t, i, kSpace)); }

// U*V+
Match upper_then_lower(const Text& t, size_t i) {
  for (size_t q = run(t, i, kUpperLike) + 1; q-- > i;) {
    const size_t to = run(t, q, kLowerLike);
    if (to > q) return to;
  }
  return {};
}

// U+V*
Match uppers(const Text& t, size_t i) {
  const size_t q = run(t, i, kUpperLike);
  return q > i ? Match(run(t, q, kLowerLike)) : Match();
}

// [^\r\n\p{L}\p{N}]? word C?
template <Alternative word, bool with_contraction>
Match led_word(const Text& t, size_t i) {
  Match m = word(t, i + lead(t, i));
  if (!m) m = word(t, i);
  const Match more = m && with_contraction ? contraction<true>(t, *m) : Match();
  return more ? more : m;
}

Match everything(const Text& t, size_t) { return t.end.size(); }

std::vector<Alternative> alternatives(Pattern pattern) {
  switch (pattern) {
    case Pattern::gpt2:
      return {contraction<false>,   after_space<kLetter>, after_space<kNumber>,
              after_space<kSymbol>, trailing_space,       space};
    case Pattern::cl100k:
      return {contraction<true>, led_letters, digits<3>, symbols<false>, newlines, trailing_space, space};
    case Pattern::qwen2:
      return {contraction<true>, led_letters, digits<1>, symbols<false>, newlines, trailing_space, space};
    case Pattern::o200k:
      return {led_word<upper_then_lower, true>,
              led_word<uppers, true>,
              digits<3>,
              symbols<true>,
              newlines,
              trailing_space,
              space};
    case Pattern::tekken:
      return {led_word<upper_then_lower, false>,
              led_word<uppers, false>,
              digits<1>,
              symbols<true>,
              newlines,
              trailing_space,
              space};
    default:
      return {everything};
  }
}

size_t first_match(const std::vector<Alternative>& all, const Text& text, size_t i) {
  for (const Alternative alternative : all) {
    if (const Match m = alternative(text, i)) return *m;
  }
  return i + 1;  // no pattern comes here: each has an alternative for every character
}

}  // namespace

void split(const SplitArgs& a) {
  const Text text = read(a);
  const std::vector<Alternative> all = alternatives(a.pattern);
  *a.count = 0;
  for (size_t i = 0; i < text.end.size();) {
    i = first_match(all, text, i);
    a.ends[(*a.count)++] = text.end[i - 1];
  }
}

}  // namespace tk::bpe::ref
