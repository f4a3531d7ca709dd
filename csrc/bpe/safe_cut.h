// SPDX-License-Identifier: Apache-2.0
// Where a long text may be cut so that several threads, or blocks of a device, split it: between two characters that
// no piece of any pattern but `none` holds side by side, so that a boundary is certain whatever comes before and
// behind.
//
//   before                  behind
//   not white space         white space, not CR or LF    (no alternative has \s behind \S but newlines behind symbols)
//   letter or number        CR or LF
//   CR or LF                not white space, not /       (only [\r\n/]* has anything behind a newline)
//   letter                  other than L, M, N, \s, '    (' may begin a contraction behind a word)
//   number                  not number, not white space
//   not number, not \s      number
//
// Read a part with the end of the whole text, never with its own: \s+(?!\S) looks ahead.
#pragma once
#include "bpe/long_run.h"
#include "bpe/pattern.h"
#include "bpe/unicode.h"

namespace tk::bpe {

// Between two neighbouring characters; `next` is the first byte of the second.
TK_INLINE bool is_safe_cut(Classes before, Classes behind, uint8_t next) {
  if (before & kNewline) return !(behind & kSpace) && next != '/';
  if (before & kSpace) return false;
  if (behind & kNewline) return (before & (kLetter | kNumber)) != 0;
  if (behind & kSpace) return true;
  if ((before & kNumber) || (behind & kNumber)) return before != behind;
  return (before & kLetter) && (behind & kOther) && next != '\'';
}

#if defined(__CUDACC__)
TK_INLINE const uint8_t* skip_uncut(const uint8_t* p, const uint8_t*) { return p; }
#else
// A later place than p, with no certain boundary behind p up to it, between characters of ASCII. p[-1] is one.
TK_INLINE const uint8_t* skip_uncut(const uint8_t* p, const uint8_t* limit) {
  for (--p; limit - p > 64; p += 63) {
    const Block64 block = Block64::load(p);
    if (block.high()) break;
    const uint64_t letter = block.within('a', 26, 0x20), number = block.within('0', 10);
    const uint64_t newline = block.equal('\n') | block.equal('\r');
    const uint64_t flat = (block.within('\t', 5) | block.equal(' ')) & ~newline;
    const uint64_t text = ~(newline | flat), word = letter | number;
    uint64_t cut = ((newline << 1) & text & ~block.equal('/')) | (newline & (word << 1)) | (flat & (text << 1));
    cut |= text & (text << 1) & (number ^ (number << 1));
    cut |= (letter << 1) & text & ~(word | block.equal('\''));
    if (cut & ~uint64_t{1}) break;
  }
  return p + 1;
}
#endif

// The first certain boundary in [p, limit), or `limit` where there is none; `begin` is one. begin <= p <= limit <= end,
// text in [begin, end).
//
// To cut a text into parts of C bytes in linear time, whatever it holds: part k begins at
// safe_cut(k C, (k + 1) C, ...), and has no pieces where that is (k + 1) C; otherwise it ends at
// safe_cut((k + 1) C, end, ...).
TK_INLINE const uint8_t* safe_cut(Pattern pattern, const uint8_t* p, const uint8_t* limit, const uint8_t* begin,
                                  const uint8_t* end) {
  if (p == begin || p == limit) return p;
  if (pattern == Pattern::none) return limit;
  while (p < limit && !is_char_start(p, begin, end)) ++p;
  if (p >= limit) return limit;
  Classes before = read_char_before(p, begin, end).set;
  for (int read = 1; p < limit; ++read) {
    const Char c = read_char(p, end);
    if (is_safe_cut(before, c.set, *p)) return p;
    before = c.set;
    p += c.bytes;
    if (read % scan::kLongRun == 0 && c.bytes == 1 && p[-1] < 0x80) {
      p = skip_uncut(p, limit);
      before = set_of(class_of(p[-1]));
    }
  }
  return limit;
}

}  // namespace tk::bpe
