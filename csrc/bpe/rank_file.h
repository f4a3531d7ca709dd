// SPDX-License-Identifier: Apache-2.0
// tiktoken's rank files: a line `base64 SPACE decimal` for every token; empty lines are passed over.
#pragma once
#include <cstdint>
#include <vector>

namespace tk::bpe {

struct RankFile {
  std::vector<uint8_t> bytes;
  std::vector<int64_t> offsets{0};
  std::vector<int64_t> ranks;
};

// Throws ValueError naming the line: base64 that is not exactly what an encoder writes, an empty token, no rank, a rank
// of more than nine digits or one that a line before has.
RankFile parse_rank_file(const uint8_t* p, int64_t n);

}  // namespace tk::bpe
