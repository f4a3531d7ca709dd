// SPDX-License-Identifier: Apache-2.0
// Pieces<pattern>: the same pieces as Scanner<pattern>, many at a time. Host only, for hot loops:
//
//   Pieces<Pattern::cl100k> pieces(begin, end);      the text from a certain boundary (safe_cut.h) to its very end
//   for (const uint8_t* p = begin; p < end;) {
//     const uint8_t* next = pieces.next();           the piece is [p, next)
//     p = next;
//   }
//
// Where pieces begin in the next 64 bytes is computed for all of them at once, on words with a bit for every byte:
// whether a piece begins at a byte depends on the characters around it, apart from runs of digits and white space, for
// which there are loops that hardly ever run. Every bit behind the first, where a piece begins, is settled by what
// comes before it, and white space by what follows its run; so all bits up to the last character that is not white
// space hold, and the next 64 bytes are read from the last beginning among them. What cannot be settled (white space
// and numbers beyond ASCII, marks that do not follow a letter, capitals behind a letter without case, pieces longer
// than 64 bytes) is left to Scanner, one piece at a time.
#pragma once
#include "bpe/block64.h"
#include "bpe/scan.h"

namespace tk::bpe {
namespace {

// Classes of 64 bytes; all bytes of a character have its class.
struct ClassBits {
  uint64_t letter, number, space, newline, symbol;
  uint64_t blank;                  // U+0020
  uint64_t upper, lower, uncased;  // letters, of patterns that look at case; marks behind letters are without case
  uint64_t inner;                  // bytes of a character behind its first
  int known;                       // how many bytes these are right for
};

TK_INLINE uint64_t bits_below(int n) { return n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0}; }

// Adds the characters beyond ASCII, as far as they can be settled.
template <bool cased>
TK_INLINE void add_wide(ClassBits& c, uint64_t high, const uint8_t* p, const uint8_t* end) {
  while (high) {
    const int at = __builtin_ctzll(high);
    const Char wide = read_char(p + at, end);
    const uint64_t bits = bits_below(wide.bytes) << at;
    const bool follows_letter = at > 0 && (c.letter >> (at - 1) & 1);
    const Classes open = kNumber | kSpace | (cased && !follows_letter ? kMark : 0);
    if (at + wide.bytes > 64 || (wide.set & open)) {
      c.known = at;
      break;
    }
    high &= ~bits;
    c.inner |= bits & (bits << 1);
    const bool is_letter = wide.set & (cased ? kLetter | kMark : kLetter);
    c.letter |= is_letter ? bits : 0;
    c.symbol |= is_letter ? 0 : bits;
    if constexpr (cased) {
      c.upper |= wide.set & kCapital ? bits : 0;
      c.lower |= wide.set & set_of(Class::lower) ? bits : 0;
      c.uncased |= wide.set & (kUncased | kMark) ? bits : 0;
    }
  }
  if constexpr (cased) {
    const uint64_t open = c.upper & (c.uncased << 1);
    if (open && __builtin_ctzll(open) < c.known) c.known = __builtin_ctzll(open);
  }
}

// Of `size` bytes, at most 64. `block` holds zeros behind them.
template <bool cased>
TK_INLINE ClassBits class_bits(const Block64& block, int size, const uint8_t* p, const uint8_t* end) {
  ClassBits c{};
  c.letter = block.within('a', 26, 0x20);
  c.number = block.within('0', 10);
  c.blank = block.equal(' ');
  c.space = c.blank | block.within('\t', 5);
  c.newline = block.equal('\n') | block.equal('\r');
  const uint64_t high = block.high();
  c.symbol = bits_below(size) & ~(c.letter | c.number | c.space | high);
  c.known = size;
  if constexpr (cased) {
    c.upper = block.within('A', 26);
    c.lower = c.letter & ~c.upper;
  }
  if (high) add_wide<cased>(c, high, p, end);
  return c;
}

}  // namespace

namespace {

template <Pattern pattern>
class Pieces {
 public:
  __attribute__((always_inline)) Pieces(const uint8_t* begin, const uint8_t* end)
      : base_(begin), at_(begin), end_(end) {}

  // The end of the next piece; there is one.
  __attribute__((always_inline)) const uint8_t* next() {
    if (ends_ == 0) {
      base_ = at_;
      ends_ = find(base_, end_);
      if (ends_ == 0) return at_ = Scanner<pattern>::next(at_, end_);
    }
    at_ = base_ + __builtin_ctzll(ends_);
    ends_ &= ends_ - 1;
    return at_;
  }

 private:
  static constexpr Rules kRules = Scanner<pattern>::kRules;

  // Where pieces end in the 64 bytes from p, where one begins: bit i is for p + i. Some of them, perhaps none.
  static uint64_t find(const uint8_t* p, const uint8_t* end) {
    if (end - p >= 64) {
      const Block64 block = Block64::load(p);
      return begins(block, 64, p, end);
    }
    const int size = static_cast<int>(end - p);
    uint8_t copy[64] = {};
    __builtin_memcpy(copy, p, static_cast<size_t>(size));
    const uint64_t found = begins(Block64::load(copy), size, p, end);
    return found;
  }

  __attribute__((always_inline)) static uint64_t begins(const Block64& block, int size, const uint8_t* p,
                                                        const uint8_t* end) {
    ClassBits c = class_bits<kRules.cased>(block, size, p, end);
    uint64_t begin = 0;
    if constexpr (kRules.space_lead) {
      begin = changes(c);
      const uint64_t text = c.letter | c.number | c.symbol;
      begin |= c.space & (~(c.space << 1) | (text >> 1));
    } else {
      const uint64_t kept = kept_newlines(block, c);
      const uint64_t symbols = symbol_begins(c, kept);
      begin = symbols | letter_begins(c, symbols) | number_begins(c) | space_begins(c, kept);
    }
    contract(begin, block, c, p, end);
    if (c.known == size && p + size == end) return (begin & ~uint64_t{1} & bits_below(size)) | last_bit(size);
    const uint64_t text = (c.letter | c.number | c.symbol) & bits_below(c.known);
    if (text == 0) return 0;
    return begin & ~uint64_t{1} & bits_below(64 - __builtin_clzll(text));
  }

  // The end of the text as the end of a piece; of 64 bytes it has no bit, and is found from the last piece on.
  TK_INLINE uint64_t last_bit(int size) { return size < 64 ? uint64_t{1} << size : 0; }

  // gpt2: where a class begins, unless a blank leads it.
  TK_INLINE uint64_t changes(const ClassBits& c) {
    const uint64_t inside = (c.letter & (c.letter << 1)) | (c.number & (c.number << 1)) | (c.symbol & (c.symbol << 1));
    return (c.letter | c.number | c.symbol) & ~inside & ~(c.blank << 1);
  }

  // Newlines (and slashes behind them) that belong to the symbols before them.
  __attribute__((always_inline)) static uint64_t kept_newlines(const Block64& block, const ClassBits& c) {
    const uint64_t run = c.newline | (kRules.slashes ? block.equal('/') : 0);
    const uint64_t first = c.newline & (c.symbol << 1);
    return (run & ~(run + first)) | first;  // the sum carries from each first one to the end of its run
  }

  TK_INLINE uint64_t symbol_begins(const ClassBits& c, uint64_t kept) {
    return c.symbol & ~kept & (~(c.symbol << 1) | (kept << 1)) & ~(c.blank << 1);
  }

  // A letter continues letters, and follows its lead: white space, or a symbol that begins a piece.
  TK_INLINE uint64_t letter_begins(const ClassBits& c, uint64_t symbols) {
    uint64_t lead = symbols;
    for (int i = 0; i < 3; ++i) lead |= (lead << 1) & c.inner & c.symbol;
    lead |= c.space & ~c.newline;
    const uint64_t begin = c.letter & ~(c.letter << 1) & ~(lead << 1);
    return kRules.cased ? begin | (c.upper & (c.lower << 1)) : begin;
  }

  TK_INLINE uint64_t number_begins(const ClassBits& c) {
    if constexpr (kRules.digits == 1) return c.number;
    uint64_t begin = c.number & ~(c.number << 1);
    const uint64_t third = c.number & (c.number << 1) & (c.number << 2);
    for (uint64_t more = (begin << 3) & third; more; more = (more << 3) & third) begin |= more;
    return begin;
  }

  // The first of a run; the last, if what follows is text; and the first behind its last newline.
  TK_INLINE uint64_t space_begins(const ClassBits& c, uint64_t kept) {
    const uint64_t space = c.space & ~kept;
    const uint64_t flat = c.space & ~c.newline;
    const uint64_t text = c.letter | c.number | c.symbol;
    uint64_t indent = flat & (c.newline << 1);
    if (((flat + indent) & ~flat) & c.newline) {  // blanks between newlines
      for (uint64_t rest = indent; rest; rest &= rest - 1) {
        const int at = __builtin_ctzll(rest);
        const uint64_t behind = ~(flat >> at) << at;  // `at` itself is of the run
        if (behind && (c.newline >> __builtin_ctzll(behind) & 1)) indent &= ~(uint64_t{1} << at);
      }
    }
    return (space & ~(space << 1)) | (flat & (text >> 1)) | indent;
  }

  // A contraction is a piece of its own where a piece begins with it, or the end of a word.
  __attribute__((always_inline)) static void contract(uint64_t& begin, const Block64& block, ClassBits& c,
                                                      const uint8_t* p, const uint8_t* end) {
    if constexpr (!kRules.contraction_first && !kRules.contraction_last) return;
    uint64_t quotes = block.equal('\'') & (kRules.contraction_first ? begin : c.letter << 1);
    int last = 0;
    for (; quotes; quotes &= quotes - 1) {
      const int at = __builtin_ctzll(quotes);
      if (kRules.contraction_last && at == last) continue;
      const int to = static_cast<int>(scan::contraction(p + at, end, kRules.any_case) - p);
      if (to == at) continue;
      begin &= ~(bits_below(to) & ~bits_below(kRules.contraction_first ? at + 1 : at));
      if (to < 64) begin |= uint64_t{1} << to;
      if (kRules.cased && to < c.known && p[to] >= 0x80) c.known = to;  // a mark there follows no letter
      last = to;
    }
  }

  const uint8_t* base_;
  const uint8_t* at_;
  const uint8_t* end_;
  uint64_t ends_ = 0;
};

template <>
class Pieces<Pattern::none> {
 public:
  Pieces(const uint8_t*, const uint8_t* end) : end_(end) {}
  const uint8_t* next() const { return end_; }

 private:
  const uint8_t* end_;
};

}  // namespace
}  // namespace tk::bpe
