// SPDX-License-Identifier: Apache-2.0
// Scanner<pattern>::next(p, end): the end of the piece that begins at p, where p < end, a piece begins at p, and the
// text ends at `end`. Pieces cover the text. Header only, for the host and for the device; hot loops of the host take
// pieces.h instead, which is several times as fast.
//
// Alternatives of the patterns, the first that matches wins, over characters as unicode.h has them (U and V there):
//   gpt2    '(s|t|re|ve|m|ll|d)   _?L+   _?N+   _?[^\sLN]+   \s+(?!\S)   \s+            _ is one U+0020
//   cl100k  (?i)'(s|t|re|ve|m|ll|d)   [^\r\nLN]?L+   N{1,3}   _?[^\sLN]+[\r\n]*   \s*[\r\n]+   \s+(?!\S)   \s+
//   o200k   [^\r\nLN]?U*V+C?   [^\r\nLN]?U+V*C?   N{1,3}   _?[^\sLN]+[\r\n/]*   \s*[\r\n]+   \s+(?!\S)   \s+
//           C = (?i)'(s|t|re|ve|m|ll|d)
//   qwen2   cl100k with N for N{1,3}; tekken: o200k with N for N{1,3} and without C; none: one piece
// Case-insensitive s is also U+017F. A run is read at most four times, whatever the text: no alternative that fails
// leaves its reading to be repeated from each of its characters.
#pragma once
#include "bpe/long_run.h"
#include "bpe/pattern.h"
#include "bpe/unicode.h"

namespace tk::bpe {

struct Rules {
  bool contraction_first;  // an alternative of its own, before the letters
  bool contraction_last;   // C?, behind the letters
  bool any_case;           // (?i)
  bool cased;              // U*V+ and U+V* for L+
  bool space_lead;         // only U+0020 may lead letters, and it leads numbers too
  int digits;              // the most of one piece; 0 = any
  bool newlines;           // \s*[\r\n]+, and [\r\n]* behind symbols
  bool slashes;            // [\r\n/]* there
};

constexpr Rules rules_of(Pattern pattern) {
  switch (pattern) {
    case Pattern::cl100k:
      return {true, false, true, false, false, 3, true, false};
    case Pattern::qwen2:
      return {true, false, true, false, false, 1, true, false};
    case Pattern::o200k:
      return {false, true, true, true, false, 3, true, true};
    case Pattern::tekken:
      return {false, false, true, true, false, 1, true, true};
    default:
      return {true, false, false, false, true, 0, false, false};
  }
}

namespace scan {

// The first character from p on that is not of the set.
template <Classes set>
TK_INLINE const uint8_t* skip(const uint8_t* p, const uint8_t* end) {
  for (int read = 1; p < end; ++read) {
    const Char c = read_char(p, end);
    if (!(c.set & set)) break;
    p += c.bytes;
    if (read % kLongRun == 0) p = skip_blocks<set>(p, end);
  }
  return p;
}

// The end of a contraction at p, or p.
TK_INLINE const uint8_t* contraction(const uint8_t* p, const uint8_t* end, bool any_case) {
  if (end - p < 2 || *p != '\'') return p;
  const uint8_t fold = any_case ? 0x20 : 0;
  const uint32_t first = p[1] < 0x80 ? p[1] | fold : p[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 2;
  if (end - p < 3) return p;
  if (first == 0xc5) return any_case && p[2] == 0xbf ? p + 3 : p;  // U+017F
  const uint32_t second = p[2] < 0x80 ? p[2] | fold : p[2];
  if (second == 'e' && (first == 'r' || first == 'v')) return p + 3;
  return first == 'l' && second == 'l' ? p + 3 : p;
}

// \s*[\r\n]+ if asked for, \s+(?!\S), \s+, from a white-space character.
template <bool newlines>
TK_INLINE const uint8_t* white_space(const uint8_t* p, const uint8_t* end) {
  const uint8_t* last = p;           // the last character of the run
  const uint8_t* newline = nullptr;  // behind the last newline of the run
  const uint8_t* q = p;
  for (int read = 1; q < end; ++read) {
    const Char c = read_char(q, end);
    if (!(c.set & kSpace)) break;
    last = q;
    q += c.bytes;
    if (c.set & kNewline) newline = q;
    if (read % kLongRun == 0) {
      const uint8_t* ahead = q;
      q = skip_blocks<kSpace>(q, end);
      if (q == ahead) continue;
      last = q - 1;
      const uint8_t* found = newlines ? behind_newline(ahead, q) : nullptr;
      if (found) newline = found;
    }
  }
  if (newlines && newline) return newline;
  return q == end || last == p ? q : last;
}

// U*V+, then U+V*, from p; nullptr if neither matches.
TK_INLINE const uint8_t* cased_word(const uint8_t* p, const uint8_t* end) {
  const uint8_t* uncased = nullptr;  // behind the last character of U that is of V as well
  const uint8_t* q = p;
  for (int read = 1; q < end; ++read) {
    const Char c = read_char(q, end);
    if (!(c.set & kUpperLike)) {
      if (c.set & kLowerLike) return skip<kLowerLike>(q, end);
      break;
    }
    q += c.bytes;
    if (c.set & kLowerLike) uncased = q;
    if (read % kLongRun == 0) q = skip_blocks<kUpperLike>(q, end);  // capitals of ASCII: none is of V
  }
  if (uncased) return uncased;
  return q == p ? nullptr : q;
}

}  // namespace scan

template <Pattern pattern>
struct Scanner {
  static constexpr Rules kRules = rules_of(pattern);

  TK_INLINE const uint8_t* next(const uint8_t* p, const uint8_t* end) {
    using namespace scan;
    if constexpr (kRules.contraction_first) {
      const uint8_t* q = contraction(p, end, kRules.any_case);
      if (q != p) return q;
    }
    const Char c = read_char(p, end);
    const uint8_t* second = p + c.bytes;
    if (c.set & kNumber) return numbers(p, end);
    if (c.set & kLetter) return word(p, end);
    const Classes ahead = second < end ? read_char(second, end).set : 0;
    if constexpr (kRules.space_lead) {
      if (*p == ' ' && (ahead & kNumber)) return numbers(second, end);
      if (*p == ' ' && (ahead & kLetter)) return word(second, end);
    } else if constexpr (kRules.cased) {
      if (!(c.set & kNewline) && (ahead & (kLetter | kMark))) return led_word(c.set, second, end);
      if (c.set & kMark) return word(p, end);
    } else {
      if (!(c.set & kNewline) && (ahead & kLetter)) return word(second, end);
    }
    if (c.set & kSymbol) return symbols(second, end);
    if (*p == ' ' && (ahead & kSymbol)) return symbols(second, end);
    return white_space<kRules.newlines>(p, end);
  }

 private:
  // From its first letter. There is one.
  TK_INLINE const uint8_t* word(const uint8_t* p, const uint8_t* end) {
    if constexpr (!kRules.cased) return scan::skip<kLetter>(p, end);
    return behind_word(scan::cased_word(p, end), end);
  }

  // A mark leads the word if what follows matches at all without it. Every word of the others begins with a letter or
  // mark and matches.
  TK_INLINE const uint8_t* led_word(Classes lead, const uint8_t* second, const uint8_t* end) {
    if (lead & kMark) {
      const uint8_t* q = second;
      Classes seen = 0;
      while (q < end) {
        const Char c = read_char(q, end);
        if (!(c.set & (kLetter | kMark))) break;
        seen |= c.set;
        q += c.bytes;
        if (seen & kLowerLike) break;
      }
      if (!(seen & kLowerLike)) return behind_word(second, end);
    }
    return word(second, end);
  }

  TK_INLINE const uint8_t* behind_word(const uint8_t* p, const uint8_t* end) {
    return kRules.contraction_last ? scan::contraction(p, end, true) : p;
  }

  TK_INLINE const uint8_t* numbers(const uint8_t* p, const uint8_t* end) {
    if constexpr (kRules.digits == 0) {
      return scan::skip<kNumber>(p, end);
    } else {
      for (int i = 0; i < kRules.digits && p < end; ++i) {
        const Char c = read_char(p, end);
        if (!(c.set & kNumber)) break;
        p += c.bytes;
      }
      return p;
    }
  }

  // Behind the first symbol.
  TK_INLINE const uint8_t* symbols(const uint8_t* p, const uint8_t* end) {
    p = scan::skip<kSymbol>(p, end);
    if constexpr (kRules.newlines) {
      while (p < end && (*p == '\r' || *p == '\n' || (kRules.slashes && *p == '/'))) ++p;
    }
    return p;
  }
};

template <>
struct Scanner<Pattern::none> {
  TK_INLINE const uint8_t* next(const uint8_t*, const uint8_t* end) { return end; }
};

}  // namespace tk::bpe
