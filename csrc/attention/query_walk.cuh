// SPDX-License-Identifier: Apache-2.0
// The walk of a tile of keys over the queries that see it, for the gradients of keys and values. A policy only tells
// which keys a tile of queries walks, so a kernel turns that around first: one bit for every tile of queries and block
// of 64 keys that meet (of 64 x 64 pairs, one bit). The walk then follows the bits.
#pragma once
#include "attention/attention_backward.h"
#include "attention/attention_rows.cuh"

namespace tk::attention::gpu {

constexpr int kMeetRows = 64;
constexpr int kMeetKeys = 64;
constexpr int kMeetThreads = 128;

// Bits of (sample and head, block of keys, tile of queries).
struct Meetings {
  unsigned* bits;
  int64_t slots, words, key_blocks;  // words of 32 slots

  TK_MEMBER unsigned* row(int64_t head, int64_t key_block) const {
    return bits + (head * key_blocks + key_block) * words;
  }
};

// What the second pass knows about every query.
struct QueryFacts {
  const float* lse;
  const float* centre;  // <grad, out> - grad_lse
};

template <class P>
__device__ __forceinline__ void note_meetings(const P& policy, const Extents& e, const TileRows& tile,
                                              const Meetings& meetings, int64_t head, int64_t slot) {
  Cursor cursor;
  Span span;
  while (policy.next(tile, &cursor, &span)) {
    const int64_t begin = clamped(span.begin, 0, e.keys);
    const int64_t end = clamped(span.end, begin, e.keys);
    if (begin == end) continue;
    for (int64_t block = begin / kMeetKeys + threadIdx.x % 32; block <= (end - 1) / kMeetKeys; block += 32) {
      atomicOr(meetings.row(head, block) + slot / 32, 1u << (slot % 32));
    }
  }
}

// One warp a tile of queries.
template <class Unused>
__global__ void __launch_bounds__(kMeetThreads)
    attention_meetings_kernel(Policy policy, Shape shape, Meetings meetings, int64_t total) {
  const int64_t item = (int64_t{blockIdx.x} * kMeetThreads + threadIdx.x) / 32;
  if (item >= total) return;
  const int64_t head = item / meetings.slots;
  const int64_t slot = item % meetings.slots;
  TK_POLICY_SWITCH(policy.kind, P, {
    const P of_head(policy, shape.extents, head / shape.heads, head % shape.heads);
    const TileRows tile = tile_of(of_head, shape.extents, slot, kMeetRows);
    if (tile.begin < tile.end) note_meetings(of_head, shape.extents, tile, meetings, head, slot);
  })
}

// One step: up to kStep queries of one tile. Lives in shared memory.
template <int kStep>
struct QueryList {
  int query[kStep];    // -1: no query, or one that attends to nothing
  float shift[kStep];  // its lse, times log2(e)
  float centre[kStep];
  uint64_t seen[kStep];  // which keys of the block it sees; every query sees those behind the last
  int64_t head;          // of the queries
  TileRows tile;
  int count;
  unsigned strange[2];
};

// Where the walk goes on. `head` counts within the group.
struct QueryWalk {
  int64_t head, slot_word;
  TileRows tile;
  int64_t at;
  unsigned bits;
};

// The keys of a block, and the heads that read them.
struct KeyTask {
  int64_t b, group, first_head, heads;
  TileRows keys;
  int64_t key_block;
  int part;  // of the columns of an answer
};

__device__ __forceinline__ void begin_walk(QueryWalk& w) {
  w.head = 0;
  w.slot_word = -1;
  w.tile = {0, 0};
  w.at = 0;
  w.bits = 0;
}

// The next tile of queries with a bit, or false.
__device__ __forceinline__ bool next_tile(const Policy& policy, const Shape& shape, const KeyTask& task,
                                          const Meetings& meetings, QueryWalk& w) {
  while (w.bits == 0) {
    if (++w.slot_word == meetings.words) {
      w.slot_word = 0;
      ++w.head;
    }
    if (w.head >= task.heads || meetings.words == 0) return false;
    const int64_t head = task.b * shape.heads + task.first_head + w.head;
    w.bits = meetings.row(head, task.key_block)[w.slot_word];
  }
  const int64_t slot = w.slot_word * 32 + __ffs(static_cast<int>(w.bits)) - 1;
  w.bits &= w.bits - 1;
  TK_POLICY_SWITCH(policy.kind, P, {
    const P of_head(policy, shape.extents, task.b, task.first_head + w.head);
    w.tile = tile_of(of_head, shape.extents, slot, kMeetRows);
  })
  w.at = w.tile.begin;
  return true;
}

// Writes the next list. Called by all lanes of one warp.
template <int kStep>
__device__ __forceinline__ void write_list(const Policy& policy, const Shape& shape, const KeyTask& task,
                                           const Meetings& meetings, const QueryFacts& facts, QueryWalk& walk,
                                           QueryList<kStep>& list) {
  const int lane = threadIdx.x % 32;
  QueryWalk w = walk;
  bool found = true;
  while (found && w.at >= w.tile.end) found = next_tile(policy, shape, task, meetings, w);
  const int count = found ? static_cast<int>(at_most(w.tile.end - w.at, kStep)) : 0;
  const int64_t head = task.b * shape.heads + task.first_head + w.head;
  for (int l = lane; l < kStep; l += 32) {
    const int64_t row = head * shape.extents.queries + w.at + l;
    const float lse = l < count ? facts.lse[row] : -kInfinity;
    const bool attends = lse != -kInfinity;
    list.query[l] = attends ? static_cast<int>(w.at) + l : -1;
    list.shift[l] = attends ? lse * kLog2E : 0.0f;
    list.centre[l] = attends ? facts.centre[row] : 0.0f;
  }
  __syncwarp();
  if (lane != 0) return;
  list.head = task.first_head + w.head;
  list.tile = w.tile;
  list.count = count;
  list.strange[0] = list.strange[1] = 0;
  w.at += count;
  walk = w;
}

// ---- which keys of the block a query sees -------------------------------------------------------------------------
// Rows of one tile agree where every span is seen by all of them.
template <class P>
struct RowsAgree {
  static constexpr bool value = false;
};
template <>
struct RowsAgree<BlockMapPolicy> {
  static constexpr bool value = true;
};

// Asks for every key; called by a whole warp.
template <class P>
__device__ __forceinline__ uint64_t asked_keys(const P& policy, int64_t i, const TileRows& keys) {
  const int64_t low = keys.begin + threadIdx.x % 32;
  const int64_t high = low + 32;
  const unsigned a = __ballot_sync(kAllLanes, low < keys.end && policy.allowed(i, low));
  const unsigned b = __ballot_sync(kAllLanes, high < keys.end && policy.allowed(i, high));
  return uint64_t{b} << 32 | a;
}

// From the spans of the tile and the interval that row i sees of each.
template <class P>
__device__ __forceinline__ uint64_t interval_keys(const P& policy, int64_t i, const TileRows& tile,
                                                  const TileRows& keys) {
  uint64_t bits = 0;
  Cursor cursor;
  Span span;
  while (policy.next(tile, &cursor, &span)) {
    if (span.end <= keys.begin) continue;
    if (span.begin >= keys.end) break;
    const Interval seen = span.full ? Interval{span.begin, span.end} : policy.interval(i, span);
    const int64_t begin = clamped(seen.begin, keys.begin, keys.end);
    const int64_t end = clamped(seen.end, begin, keys.end);
    bits |= low_bits(end - begin) << (begin - keys.begin) % 64;
  }
  return bits;
}

template <class P, int kStep, int kThreads>
__device__ __forceinline__ void write_seen(const P& policy, const TileRows& keys, uint64_t shown, uint64_t beyond,
                                           QueryList<kStep>& list) {
  static_assert(kStep <= kThreads, "a thread a query");
  const int l = threadIdx.x;
  if constexpr (RowsAgree<P>::value) {
    const uint64_t seen = asked_keys(policy, list.tile.begin, keys) & shown;
    if (l < kStep) list.seen[l] = (list.query[l] < 0 ? 0 : seen) | beyond;
  } else if constexpr (P::kIntervals) {
    if (l >= kStep) return;
    const int i = list.query[l];
    list.seen[l] = (i < 0 ? 0 : interval_keys(policy, i, list.tile, keys) & shown) | beyond;
  } else {
    for (int q = threadIdx.x / 32; q < kStep; q += kThreads / 32) {
      const int i = list.query[q];
      const uint64_t seen = (i < 0 ? 0 : asked_keys(policy, i, keys) & shown) | beyond;
      if (threadIdx.x % 32 == 0) list.seen[q] = seen;
    }
  }
}

// Bits of the keys that their bias does not hide from every query of a head.
__device__ __forceinline__ uint64_t shown_by_bias(const float* bias, const TileRows& keys) {
  if (!bias) return ~uint64_t{0};
  const int64_t low = keys.begin + threadIdx.x % 32;
  const int64_t high = low + 32;
  const unsigned a = __ballot_sync(kAllLanes, low < keys.end && bias[low] != -kInfinity);
  const unsigned b = __ballot_sync(kAllLanes, high < keys.end && bias[high] != -kInfinity);
  return uint64_t{b} << 32 | a;
}

// Called by the whole block.
template <int kStep, int kThreads>
__device__ __forceinline__ void write_seen(const Policy& policy, const Shape& shape, const KeyTask& task,
                                           const KeyBias& key_bias, QueryList<kStep>& list) {
  const uint64_t shown = shown_by_bias(bias_of_head(key_bias, task.b, list.head), task.keys);
  const uint64_t beyond = ~low_bits(task.keys.end - task.keys.begin);
  TK_POLICY_SWITCH(policy.kind, P, {
    const P of_head(policy, shape.extents, task.b, list.head);
    write_seen<P, kStep, kThreads>(of_head, task.keys, shown, beyond, list);
  })
}

// Every pair of the step counts.
template <int kStep>
__device__ __forceinline__ bool is_plain(const QueryList<kStep>& list) {
  const int lane = threadIdx.x % 32;
  bool all = true;
#pragma unroll
  for (int l = 0; l < kStep; l += 32) all = all && list.seen[(l + lane) % kStep] == ~uint64_t{0};
  return __all_sync(kAllLanes, all);
}

}  // namespace tk::attention::gpu
