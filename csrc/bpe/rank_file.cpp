// SPDX-License-Identifier: Apache-2.0
#include "bpe/rank_file.h"

#include <array>
#include <cstring>
#include <string>

#include "core/error.h"

namespace tk::bpe {
namespace {

constexpr int64_t kMostDigits = 9;

constexpr std::array<int8_t, 256> sextets() {
  std::array<int8_t, 256> table{};
  for (auto& value : table) value = -1;
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int8_t i = 0; i < 64; ++i) table[static_cast<uint8_t>(kAlphabet[i])] = i;
  return table;
}
constexpr std::array<int8_t, 256> kSextets = sextets();

// Appends what n characters stand for; false unless they are the one way to write it.
bool append_decoded(const uint8_t* p, int64_t n, std::vector<uint8_t>& out) {
  if (n == 0 || n % 4 != 0) return false;
  const int padding = p[n - 1] != '=' ? 0 : p[n - 2] != '=' ? 1 : 2;
  for (int64_t i = 0; i < n; i += 4) {
    const int missing = i + 4 == n ? padding : 0;
    int32_t word = 0;
    for (int k = 0; k < 4; ++k) {
      const int32_t sextet = k < 4 - missing ? kSextets[p[i + k]] : 0;
      if (sextet < 0) return false;
      word = word << 6 | sextet;
    }
    for (int k = 0; k < 3 - missing; ++k) out.push_back(static_cast<uint8_t>(word >> (16 - 8 * k)));
    if (word & ((1 << 8 * missing) - 1)) return false;  // bits that no byte takes
  }
  return true;
}

// -1: no rank.
int64_t decimal(const uint8_t* p, const uint8_t* end) {
  if (p == end || end - p > kMostDigits) return -1;
  int64_t value = 0;
  for (; p < end; ++p) {
    if (*p < '0' || *p > '9') return -1;
    value = value * 10 + (*p - '0');
  }
  return value;
}

[[noreturn]] void fail(int64_t line, const std::string& problem) {
  throw ValueError("line " + std::to_string(line) + ": " + problem);
}

}  // namespace

RankFile parse_rank_file(const uint8_t* p, int64_t n) {
  RankFile file;
  file.bytes.reserve(static_cast<size_t>(n) / 2);
  std::vector<bool> seen;
  const uint8_t* end = p + n;
  for (int64_t line = 1; p < end; ++line) {
    const auto* newline = static_cast<const uint8_t*>(std::memchr(p, '\n', static_cast<size_t>(end - p)));
    const uint8_t* next = newline ? newline + 1 : end;
    const uint8_t* stop = newline ? newline : end;
    if (stop > p && stop[-1] == '\r') --stop;
    if (stop > p) {
      const auto* space = static_cast<const uint8_t*>(std::memchr(p, ' ', static_cast<size_t>(stop - p)));
      if (!space) fail(line, "expected a token in base64, a space and a rank");
      if (!append_decoded(p, space - p, file.bytes)) fail(line, "not base64");
      const int64_t rank = decimal(space + 1, stop);
      if (rank < 0) fail(line, "expected a rank of one to nine digits");
      if (static_cast<size_t>(rank) >= seen.size()) seen.resize(static_cast<size_t>(rank) * 2 + 1024);
      if (seen[static_cast<size_t>(rank)]) fail(line, "rank " + std::to_string(rank) + " is that of a line before");
      seen[static_cast<size_t>(rank)] = true;
      file.offsets.push_back(static_cast<int64_t>(file.bytes.size()));
      file.ranks.push_back(rank);
    }
    p = next;
  }
  return file;
}

}  // namespace tk::bpe
