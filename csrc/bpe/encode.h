// SPDX-License-Identifier: Apache-2.0
// encode: the ids of texts. A text is cut into pieces, by a pattern (split.h) or at ends given from outside; a piece
// that is a token is that token (if the vocabulary says so), any other is merged (vocab.h); the ids follow each other.
//
//   texts       B of them, of size bytes each
//   ends        byte ends of the pieces of every text, ascending, the last one its size; used where ends_of is given
//   ends_of     (B + 1) where the ends of each text lie in `ends`, or nullptr: by the pattern
//   counts      (B) int64, written: how many ids each text has
//   ids         written: the ids of all texts, one after the other
//
// A byte that is no token, where a piece is merged, is left out, or throws ValueError naming it
// (VocabView::drop_missing).
#pragma once
#include "bpe/id_buffer.h"
#include "bpe/pattern.h"
#include "bpe/piece_cache.h"
#include "bpe/vocab_view.h"
#include "core/op.h"

namespace tk::bpe {

struct Text {
  const uint8_t* bytes;
  int64_t size;
};

struct EncodeArgs {
  const VocabView* vocab;
  const Text* texts;
  int64_t batch;
  Pattern pattern;
  const int64_t* ends;
  const int64_t* ends_of;
  int64_t* counts;
  IdBuffer* ids;
  int64_t threads;  // at most; 0: no limit of the call's own. Changes no result
  int64_t part;     // bytes that one thread takes at a time, or 0: as many as are best. Changes no result
  int64_t limit;    // where more ids than these are there, the rest may be left out
};

TK_DECLARE_OP(encode, EncodeArgs)

// ---- what the levels share (encode_parts.cpp) --------------------------------------------------------------------

// Pieces that begin in [from, to) of the text [begin, end), by pattern or by ends.
struct Span {
  const VocabView* vocab;
  PieceCache* cache;
  const uint8_t *begin, *end, *from, *to;
  Pattern pattern;
  const int64_t* ends;  // of the pieces in the span; nullptr: by the pattern
  int32_t* out;         // room for the bytes of the span and kSpanSlack more
};
constexpr int64_t kSpanSlack = 8;

// Returns how many ids it wrote.
using EncodeSpan = int64_t(const Span&);

// Cuts the work by its shape, runs every part on the pool and puts the ids together.
void encode_parts(const EncodeArgs& a, EncodeSpan* encode_span);

// A piece of a vocabulary that lacks bytes. Writes tokens, at most n. Throws ValueError where none may be missing,
// naming the place in the text.
int64_t merge_with_gaps(const VocabView& v, const uint8_t* text, const uint8_t* p, int64_t n, int32_t* out);

}  // namespace tk::bpe
