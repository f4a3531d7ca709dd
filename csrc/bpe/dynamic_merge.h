// SPDX-License-Identifier: Apache-2.0
// merge_pairs_batch: merges of neighbouring tokens learned from one batch and applied to it.
//
//   ids      N tokens, each at least 0; sequence b is ids[offsets[b], offsets[b + 1])
//
// Up to max_merges times (negative: no limit): of all valid pairs of neighbours, take the one that occurs most often
// (overlapping occurrences count: a a a has two), among equals the one whose first occurrence comes first in the batch
// as it is now; in every sequence replace its occurrences from left to right, without overlap, by one token. No valid
// pair: stop. Pairs that occur once are merged too.
//
// `valid(a, b)` is asked at most once for a pair; an answer holds for the whole run. `join(a, b)` is asked once a merge
// for the id of the new token: one that exists (the concatenation may be a known token) or the next new id, which
// starts at next_id; never a or b.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

namespace tk::bpe {

struct MergePairsArgs {
  const int32_t* ids;
  const int64_t* offsets;  // of sequences + 1
  int64_t sequences;
  int64_t max_merges;
  int32_t next_id;
  std::function<bool(int32_t, int32_t)> valid;             // empty: every pair is
  std::function<int32_t(int32_t, int32_t, int32_t)> join;  // (a, b, next new id); empty: always the new one
};

struct MergedPairs {
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets;
  // By merge: the pair, its token, how often the pair occurred, and how many of these were replaced.
  std::vector<int32_t> parts, result;
  std::vector<int64_t> count, replaced;
};

// The id of a pair's token. Throws ValueError for an answer of join that is none.
int32_t joined_id(const MergePairsArgs& a, int32_t left, int32_t right, int32_t* next_id);

MergedPairs merge_pairs_batch(const MergePairsArgs& a);

namespace ref {
MergedPairs merge_pairs_batch(const MergePairsArgs& a);
}

}  // namespace tk::bpe
