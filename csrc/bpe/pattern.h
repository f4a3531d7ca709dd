// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizers with a compiled scanner; named as their tokenizers are. Any other pattern gives its piece ends
// from outside.
#pragma once

namespace tk::bpe {

enum class Pattern : int {
  none = 0,  // the whole text is one piece
  gpt2,      // r50k, p50k
  cl100k,    // and Llama-3
  o200k,
  qwen2,   // cl100k with single digits
  tekken,  // o200k without contractions, with single digits
  count
};

}  // namespace tk::bpe
