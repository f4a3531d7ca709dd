// SPDX-License-Identifier: Apache-2.0
// decode: the bytes of ids, one after the other.
//
//   tokens  (N)  int32, every one a token of the vocabulary (an index, not an id)
//   parts        where the bytes of every kDecodePart tokens begin in `out`
//   out          written: the bytes of all tokens
#pragma once
#include "bpe/vocab_view.h"
#include "core/op.h"

namespace tk::bpe {

constexpr int64_t kDecodePart = 1 << 14;

struct DecodeArgs {
  const VocabView* vocab;
  const int32_t* tokens;
  const int64_t* parts;
  uint8_t* out;
  int64_t count;        // N
  int64_t total_bytes;  // of `out`
};

TK_DECLARE_OP(decode, DecodeArgs)

}  // namespace tk::bpe
