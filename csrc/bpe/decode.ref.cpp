// SPDX-License-Identifier: Apache-2.0
#include "bpe/decode.h"

#include <cstring>

namespace tk::bpe::ref {

void decode(const DecodeArgs& a) {
  const VocabView& v = *a.vocab;
  uint8_t* out = a.out;
  for (int64_t i = 0; i < a.count; ++i) {
    const uint32_t length = token_length(v, a.tokens[i]);
    std::memcpy(out, v.bytes + v.offsets[a.tokens[i]], length);
    out += length;
  }
}

}  // namespace tk::bpe::ref
