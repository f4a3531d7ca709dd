// SPDX-License-Identifier: Apache-2.0
// A long piece in linear time, by the speed of merge_array: windows are merged one after the other, each from the last
// token but a few of the one before; where the two tokens that meet are stable neighbours, the tokens so far are the
// merged prefix, because there is only one sequence of stable neighbours (merge.h). Where they are not, the window
// begins one token earlier and is twice as long. Where tokens are long, as in a run of one letter, the longest match is
// tried first. If that costs too much in all, merge_backtrack does the piece.
#pragma once
#include "bpe/merge.h"
#include "bpe/merge_array.h"

namespace tk::bpe {
namespace {

constexpr int kWindow = 64;              // bytes; doubled up to kArrayBytes
constexpr int kHeldBack = 6;             // bytes at the end of a window that are likely to merge with what follows
constexpr int kLongTokens = 8;           // bytes a token, on average
constexpr int64_t kWorthTrie = 1 << 13;  // bytes of a piece: the first call of longest_token builds a table
constexpr int64_t kMostWork = 8;         // bytes of windows, per byte of the piece

// Tokens, not ids; every byte is a token.
inline int64_t merge_long(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out) {
  const HistoryView& h = history_of(v);
  if (!h.ascending) return merge_heap(v, p, n, out);
  int32_t fresh[kArrayBytes];
  int window = kWindow;
  bool long_tokens = false;  // in a run of one letter, say: then the longest token is likely to be the one
  int64_t at = 0, count = 0;
  for (int64_t work = 0; at < n; work += window) {
    if (work > kMostWork * n) return merge_backtrack(v, p, n, out);
    if (long_tokens) {
      const int32_t token = longest_token(v, p + at, n - at);
      long_tokens =
          token_length(v, token) >= kLongTokens && (count == 0 || pair_is_stable(v, h, out[count - 1], token));
      if (long_tokens) {
        out[count++] = token;
        at += token_length(v, token);
        continue;
      }
    }
    const int bytes = static_cast<int>(n - at < window ? n - at : window);
    int fresh_count = bytes == 1 ? 1 : merge_array(v, p + at, bytes, fresh);
    if (bytes == 1) fresh[0] = v.byte_token[p[at]];
    if (count > 0 && !pair_is_stable(v, h, out[count - 1], fresh[0])) {
      at -= token_length(v, out[--count]);
      if (window < kArrayBytes) window *= 2;
      continue;
    }
    long_tokens = n >= kWorthTrie && fresh_count * kLongTokens <= bytes;
    int64_t end = at + bytes;
    if (end < n) {
      const int64_t sure = end - kHeldBack;
      while (fresh_count > 1 && end > sure) end -= token_length(v, fresh[--fresh_count]);
      if (window > kWindow) window /= 2;
    }
    for (int i = 0; i < fresh_count; ++i) out[count++] = fresh[i];
    at = end;
  }
  return count;
}

}  // namespace
}  // namespace tk::bpe
