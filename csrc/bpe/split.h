// SPDX-License-Identifier: Apache-2.0
// split: where the pieces of a text end, as the pattern of a pre-tokenizer has it; see scan.h.
//
//   text   (N)  uint8, UTF-8; a byte that is part of no well-formed character is one of no class
//   ends   (N)  int64: the byte ends of the pieces, ascending, the last one N; what lies behind them is unspecified
//   count  (1)  int64: how many pieces; 0 for an empty text
#pragma once
#include "bpe/pattern.h"
#include "core/op.h"

namespace tk::bpe {

struct SplitArgs {
  const uint8_t* text;
  int64_t* ends;
  int64_t* count;
  int64_t size;  // N
  int64_t part;  // bytes that one thread takes at a time, or 0: as many as are best; changes no result
  Pattern pattern;
};

TK_DECLARE_OP(split, SplitArgs)

}  // namespace tk::bpe
