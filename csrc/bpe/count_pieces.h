// SPDX-License-Identifier: Apache-2.0
// count_pieces: how often each piece of a pre-tokenizer occurs in texts; pieces as split has them.
#pragma once
#include "bpe/pattern.h"
#include "bpe/piece_counter.h"

namespace tk::bpe {

// The pieces that end in the first `size` bytes of a text of `all` bytes; size is all, or a safe cut (safe_cut.h).
struct CountedText {
  const uint8_t* begin;
  int64_t size, all;
};

struct CountPiecesArgs {
  const CountedText* texts;
  int64_t count;
  Pattern pattern;
  int64_t threads;        // at most; 0 = as many as there are
  PieceCounter* counter;  // grows
};

namespace ref {
void count_pieces(const CountPiecesArgs&);
}
namespace host {
void count_pieces(const CountPiecesArgs&);
}

// How much of a text that goes on can be counted whatever follows it: up to its last safe cut, or nothing.
int64_t settled_bytes(Pattern pattern, const uint8_t* text, int64_t size);

}  // namespace tk::bpe
