// SPDX-License-Identifier: Apache-2.0
// Merging one piece, in four ways that give the same tokens. Input bytes must all be tokens themselves (callers leave
// out or refuse the others), output has room for n tokens; each returns how many it wrote. The whole-piece rule is the
// caller's.
//
//   scan       look for the smallest rank in an array, merge, again: O(n * merges)
//   heap       the same order of merges from a priority queue: O(n log n), for every vocabulary
//   backtrack  longest token first, shorter ones where neighbours would not be stable: O(n)
//   table      the last token of every prefix: O(n * overlapping tokens), gives all prefixes at once
//
// backtrack and table rest on History::ascending ("merges of every token's bytes come in ascending rank"): by induction
// over merges, bytes inside a token then merge in any context as they do alone, so a sequence of tokens is the result
// of merging iff every two neighbours are stable (pair_is_stable), and exactly one such sequence exists. Without that
// property they fall back to heap.
#pragma once
#include <cstdint>

#include "bpe/vocab_view.h"

namespace tk::bpe {

int64_t merge_scan(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out);
int64_t merge_heap(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out);
int64_t merge_backtrack(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out);
int64_t merge_table(const VocabView& v, const uint8_t* p, int64_t n, int32_t* out);

// The longest token, of those that merging makes, that the bytes begin with. n > 0.
int32_t longest_token(const VocabView& v, const uint8_t* p, int64_t n);

// last[k] for k in 1..n: the last token of the merged first k bytes. last[0] = kNoToken.
void prefix_tokens(const VocabView& v, const uint8_t* p, int64_t n, int32_t* last);

// Whether the bytes of two tokens, as a piece, become just these two.
bool is_valid_pair(const VocabView& v, int32_t left, int32_t right);

// Whether each merge of these bytes (those that are tokens) has at least the rank of the one before it.
bool merges_ascend(const VocabView& v, const uint8_t* p, int64_t n);

}  // namespace tk::bpe
